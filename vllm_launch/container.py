"""Settings of a vLLM server in a container. The Docker SDK, Compose and Kubernetes use the same ones.

In the container, a server listens on one port on all addresses. On the host, the port is bound to one address. The API
key is a file in the container. A shell reads it and then executes vLLM, so neither a command line nor `docker inspect`
shows the key.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LaunchError
from .servers import HOST, Server, is_address

PORT = 8000
"""The port in the container: vLLM's default."""
LISTEN = "0.0.0.0"
"""All addresses of the container's network. The published port decides what is reachable from outside."""

KEY_FILE = "/run/secrets/vllm-api-key"
"""The path of the API key in the container, read only. No file, or a device (`/dev/null`): no key."""

READ_KEY = r"LC_ALL=C tr -d '[:space:]\357\273\277' <"
"""The shell command that reads a key file, whose name follows. Like `Server.key`, it removes the UTF-8 mark."""

# The script stops if the key is blank or unreadable. Otherwise the server would run without the configured key.
_START = f"""\
set -eu
if [ -f {KEY_FILE} ]; then
  VLLM_API_KEY="$({READ_KEY}{KEY_FILE})"
  if [ -z "$VLLM_API_KEY" ]; then echo 'The file of the API key is empty.' >&2; exit 78; fi
  export VLLM_API_KEY
fi
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The health check of a container. Times in seconds, with Docker's meanings."""

    command: tuple[str, ...]
    """Exits with status 0 if the server can answer."""
    interval: int
    timeout: int
    retries: int
    start_period: int
    """During this period, failed checks do not count: the server downloads, loads and compiles a large model. A long
    period costs nothing: the first successful check ends it, and a server that exits ends the container."""


LOG_OPTIONS = {"max-size": "20m", "max-file": "5"}
"""Options of Docker's `json-file` log driver: the size of a server's log."""


def address(server: Server) -> str:
    """The host address that the port is bound to. Raises `LaunchError` for a name: Docker accepts only addresses."""
    if server.host == "localhost":
        return HOST
    if not is_address(server.host):
        raise LaunchError(
            f"The host of the vLLM server {server.name!r}, {server.host!r}, is a name. For a container it must be an "
            f"address, such as {HOST} or 0.0.0.0."
        )
    return server.host


def entrypoint(server: Server) -> list[str]:
    """The container's entry point. `command` follows it."""
    return ["/bin/sh", "-c", _START, "vllm", *server.entrypoint]


def command(server: Server) -> list[str]:
    """vLLM's arguments in a container."""
    return server.arguments(host=LISTEN, port=PORT)


def health_check(server: Server) -> HealthCheck:
    """The health check: it waits for the model, not only for the port.

    vLLM answers `/health` once the engine runs, and returns 503 after the engine has died. The check uses the Python
    that runs vLLM, because a custom image may not have curl. It ignores the proxy variables. `/health` needs no key.
    """
    return HealthCheck(
        command=probe(server.entrypoint[0], "/health"), interval=10, timeout=8, retries=3, start_period=1800
    )


def probe(python: str, path: str) -> tuple[str, ...]:
    """A command that requests `path` from the server in the same container. It exits with 0 if the status is 200."""
    ask = (
        f"import http.client as http; server = http.HTTPConnection('127.0.0.1', {PORT}, timeout=7);"
        f" server.request('GET', '{path}'); exit(server.getresponse().status != 200)"
    )
    return (python, "-I", "-c", ask)
