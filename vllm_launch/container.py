"""What is the same for a vLLM server in a container, whoever starts it: the Docker SDK or Compose.

Inside, a server listens on one port for everybody; outside, the port is bound to an address of the machine. Its API key
is a file in the container that a shell reads before it becomes vLLM, so the key stands neither on a command line nor in
what `docker inspect` shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LaunchError
from .servers import HOST, Server, is_address

PORT = 8000
"""Where a server listens in its container: vLLM's own default."""
LISTEN = "0.0.0.0"
"""The container's own network; what of it is seen outside, its published port says."""

KEY_FILE = "/run/secrets/vllm-api-key"
"""Where the API key lies in the container, read only. No file there, or a device (`/dev/null`): no key."""

READ_KEY = r"LC_ALL=C tr -d '[:space:]\357\273\277' <"
"""How a shell reads a file of a key, whose name follows: as `Server.key` does, without the mark of UTF-8 before it."""

# A blank key would leave the server open though its owner meant to close it, and so would one that can't be read.
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
    """How a container is asked whether its server works. Times in seconds, as Docker means them."""

    command: tuple[str, ...]
    """Ends with status 0 when the server can answer."""
    interval: int
    timeout: int
    retries: int
    start_period: int
    """While it lasts, failed checks do not count: a large model is downloaded, loaded and compiled. A check that
    succeeds ends it, and a server that dies ends the container, so a long one delays nothing."""


LOG_OPTIONS = {"max-size": "20m", "max-file": "5"}
"""Docker's `json-file` log driver: how much of a server's log is kept."""


def address(server: Server) -> str:
    """The address of the machine that its port is bound to. Raises `LaunchError` for a name, which Docker refuses."""
    if server.host == "localhost":
        return HOST
    if not is_address(server.host):
        raise LaunchError(
            f"The host of the vLLM server {server.name!r}, {server.host!r}, is a name; for a container it must be an "
            f"address, as {HOST} or 0.0.0.0."
        )
    return server.host


def entrypoint(server: Server) -> list[str]:
    """The container's entry point; `command` follows it."""
    return ["/bin/sh", "-c", _START, "vllm", *server.entrypoint]


def command(server: Server) -> list[str]:
    """vLLM's arguments in a container."""
    return server.arguments(host=LISTEN, port=PORT)


def health_check(server: Server) -> HealthCheck:
    """Waits for the model, not for the port: vLLM answers `/health` once the engine runs, and 503 when that has died.

    It asks with the Python that runs vLLM, since an image of one's own need not have curl, and past any proxy of the
    environment. `/health` needs no key.
    """
    return HealthCheck(
        command=probe(server.entrypoint[0], "/health"), interval=10, timeout=8, retries=3, start_period=1800
    )


def probe(python: str, path: str) -> tuple[str, ...]:
    """A command that asks a server in the same container, on `PORT`, and ends with 0 when the answer is 200."""
    ask = (
        f"import http.client as http; server = http.HTTPConnection('127.0.0.1', {PORT}, timeout=7);"
        f" server.request('GET', '{path}'); exit(server.getresponse().status != 200)"
    )
    return (python, "-I", "-c", ask)
