"""Rolls back to Ollama: makes sure that an Ollama server runs, and returns the variables that a service changes.

vLLM keeps running: services are rolled back one by one, and `vllm-launch down` frees the GPUs afterwards. Ollama loads
a model at its first call and needs no GPU memory before that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import httpx
import ollama
import yaml

from .compose import auxiliary, variables
from .runtimes import LaunchError, RuntimeName, groups
from .runtimes.state import state_folder, writing
from .servers import is_loopback

DEFAULT_URL = "http://127.0.0.1:11434"
READY_TIMEOUT_S = 300.0
"""How long Ollama may take to answer after its image is pulled (seconds)."""
_POLL_S = 0.5
_ASK_TIMEOUT_S = 5.0
_REPORTED_LINES = 6

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """An Ollama server that answers."""

    url: str
    version: str
    started: bool
    """Whether the rollback started it."""
    missing: tuple[str, ...]
    """Models that the service uses and that Ollama does not have."""

    def variables(self) -> Mapping[str, str]:
        """The environment variables that the service needs."""
        host = {} if self.url == DEFAULT_URL else {"OLLAMA_HOST": self.url}
        return {"BACKEND_MODE": "ollama", **host}


def rollback(
    models: Iterable[str], runtime: RuntimeName, report: Report, *, gpu: bool, timeout_s: float = READY_TIMEOUT_S
) -> RollbackResult:
    """Make sure that an Ollama server answers at `OLLAMA_HOST`: use the one that runs, or start one.

    With `runtime` "docker", it is the service `ollama` of docker-compose.yml, on all GPUs if `gpu` is set. With
    "process", it is `ollama serve`. `models`: the model names that services use. Raises `LaunchError` if no Ollama
    server answers in time.
    """
    url = _url()
    version = _version(url)
    started = version is None
    if started:
        _require_local(url)
        report(f"No Ollama server answers at {url}; starting one")
        if runtime == "docker":
            version = _start_container(url, report, timeout_s, gpu=gpu)
        else:
            version = _start_process(url, timeout_s)
    return RollbackResult(url, version or "", started, _missing(url, models))


def pull(model: str, report: Report) -> None:
    """Pull a model with Ollama. Raises `LaunchError`."""
    try:
        with ollama.Client(trust_env=not _is_local(_url())) as client:
            for part in client.pull(model, stream=True):
                share = f" {part.completed or 0:,} of {part.total:,} bytes" if part.total else ""
                report(f"{part.status}{share}")
    except (ollama.ResponseError, ConnectionError, httpx.HTTPError) as error:
        raise LaunchError(f"Ollama could not pull {model}: {error}") from error


def compose_file(*, gpu: bool) -> str:
    """The service `ollama` of docker-compose.yml alone, without GPUs if the machine has none."""
    spec = {**auxiliary.always(), **auxiliary.ollama()}
    del spec["profiles"]
    if not gpu:
        del spec["deploy"]
    return yaml.safe_dump({"name": "vllm", "services": {"ollama": spec}, "volumes": {"ollama": None}}, sort_keys=False)


def _url() -> str:
    """The URL that the official client uses, from `OLLAMA_HOST`."""
    with ollama.Client() as client:
        return str(client._client.base_url).rstrip("/")


def _version(url: str) -> str | None:
    """The version of the Ollama server at the URL; None if none answers. Raises if another server answers."""
    try:
        with httpx.Client(trust_env=not _is_local(url), timeout=_ASK_TIMEOUT_S) as http:
            reply = http.get(f"{url}/api/version")
    except httpx.HTTPError:
        return None
    try:
        return str(reply.json()["version"])
    except (ValueError, KeyError, TypeError):
        raise LaunchError(
            f"The server at {url} is not Ollama (GET /api/version returned {reply.status_code}). Check OLLAMA_HOST."
        ) from None


def _await(url: str, timeout_s: float, look: Callable[[], None]) -> str:
    """Wait until Ollama answers, and return its version. `look` raises if waiting is useless."""
    deadline = time.monotonic() + timeout_s
    while (version := _version(url)) is None:
        look()
        if time.monotonic() > deadline:
            raise LaunchError(f"Ollama was started but does not answer at {url} after {timeout_s:.0f} seconds.")
        time.sleep(_POLL_S)
    return version


def _is_local(url: str) -> bool:
    """Whether the URL is on this machine. If so, requests ignore the proxy variables."""
    host = httpx.URL(url).host
    return is_loopback(host) or host in ("0.0.0.0", "::")  # valid in OLLAMA_HOST for `ollama serve`


def _require_local(url: str) -> None:
    if not _is_local(url):
        raise LaunchError(
            f"No Ollama server answers at {url} (OLLAMA_HOST), which is on another machine. Start it there."
        )


def _start_container(url: str, report: Report, timeout_s: float, *, gpu: bool) -> str:
    file = compose_file(gpu=gpu)
    command = [*_compose(), "--file", "-"]
    # The port is published where the client connects: OLLAMA_HOST decides.
    environ = {**os.environ, variables.OLLAMA_PORT.name: str(httpx.URL(url).port or 80)}

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], input=file, env=environ, capture_output=True, text=True, check=False
        )

    def look() -> None:
        if not compose("ps", "--status", "restarting", "--quiet").stdout:
            return
        log = compose("logs", "--no-log-prefix", "--tail", str(_REPORTED_LINES)).stdout
        compose("stop")
        raise LaunchError(f"The container of Ollama ends as soon as it is started:\n{_last(log)}")

    done = compose("up", "--detach", "ollama")
    for line in done.stderr.splitlines():
        report(line.strip())
    if done.returncode:
        raise LaunchError(
            f"The container of Ollama could not be started:\n{_last(done.stderr)}\n"
            "To start an Ollama that is installed on this machine: vllm-launch rollback --runtime process"
        )
    return _await(url, timeout_s, look)


def _last(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-_REPORTED_LINES:])


def _compose() -> list[str]:
    """The Docker Compose command: the plugin of `docker`, or `docker-compose`."""
    if shutil.which("docker"):
        version = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if version.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise LaunchError(
        "Docker Compose is not installed. Install it, or start an Ollama that is installed on this machine: "
        "vllm-launch rollback --runtime process"
    )


def _start_process(url: str, timeout_s: float) -> str:
    if shutil.which("ollama") is None:
        raise LaunchError("`ollama` is not installed on this machine. Install it, or use --runtime docker")
    with writing("Ollama's log"):
        state_folder().mkdir(parents=True, mode=0o700, exist_ok=True)
        log = state_folder() / "ollama.log"
        started = groups.spawn(["ollama", "serve"], {**os.environ, "OLLAMA_HOST": url}, log)

    def look() -> None:
        if started.poll() is not None:
            ended = groups.how_it_ended(started.returncode)
            raise LaunchError(f"`ollama serve` ended {ended}:\n{_last(log.read_text(errors='replace'))}")

    assert started.stdin is not None
    with started.stdin as pipe:  # if the pipe closes without a byte, the guard ends the process
        version = _await(url, timeout_s, look)
        with contextlib.suppress(BrokenPipeError):
            pipe.write(b"k")  # from now on, the process outlives this program
    return version


def _missing(url: str, models: Iterable[str]) -> tuple[str, ...]:
    try:
        with ollama.Client(timeout=_ASK_TIMEOUT_S, trust_env=not _is_local(url)) as client:
            there = {_full(entry.model or "") for entry in client.list().models}
    except (ollama.ResponseError, ConnectionError, httpx.HTTPError) as error:
        raise LaunchError(f"Ollama answers at {url}, but does not list its models: {error}") from error
    return tuple(name for name in models if _full(name) not in there)


def _full(name: str) -> str:
    """The name with its tag, as Ollama lists it."""
    last = name.rpartition("/")[2]
    return (name if ":" in last else f"{name}:latest").lower()
