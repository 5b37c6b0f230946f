"""The way back to Ollama: an Ollama that answers, and the one variable that a service changes.

Nothing of vLLM is stopped: services go back one by one, and only then `vllm-launch down` frees the GPUs. Ollama loads a
model at its first call, so until then it needs none of their memory.
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
"""How long Ollama may take to answer, its image being pulled (seconds)."""
_POLL_S = 0.5
_ASK_TIMEOUT_S = 5.0
_TOLD_LINES = 6

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """An Ollama that answers."""

    url: str
    version: str
    started: bool
    """Whether it was started for this."""
    missing: tuple[str, ...]
    """Models that the service asks for and that it does not have."""

    def variables(self) -> Mapping[str, str]:
        """What a service's environment must hold."""
        where = {} if self.url == DEFAULT_URL else {"OLLAMA_HOST": self.url}
        return {"BACKEND_MODE": "ollama", **where}


def rollback(
    models: Iterable[str], runtime: RuntimeName, report: Report, *, gpu: bool, timeout_s: float = READY_TIMEOUT_S
) -> RollbackResult:
    """See to it that an Ollama answers at `OLLAMA_HOST`: the one that does, or one that is started for it.

    With `runtime` "docker" it is the service `ollama` of docker-compose.yml, on all GPUs if `gpu`; with "process" it is
    `ollama serve`. `models`: the names that services ask for. Raises `LaunchError` where none comes to answer.
    """
    url = _url()
    version = _version(url)
    started = version is None
    if started:
        _require_local(url)
        report(f"No Ollama answers at {url}: one is started")
        if runtime == "docker":
            version = _start_container(url, report, timeout_s, gpu=gpu)
        else:
            version = _start_process(url, timeout_s)
    return RollbackResult(url, version or "", started, _missing(url, models))


def pull(model: str, report: Report) -> None:
    """Have Ollama fetch a model. Raises `LaunchError`."""
    try:
        with ollama.Client(trust_env=not _is_local(_url())) as client:
            for part in client.pull(model, stream=True):
                share = f" {part.completed or 0:,} of {part.total:,} bytes" if part.total else ""
                report(f"{part.status}{share}")
    except (ollama.ResponseError, ConnectionError, httpx.HTTPError) as error:
        raise LaunchError(f"Ollama could not fetch {model}: {error}") from error


def compose_file(*, gpu: bool) -> str:
    """The service `ollama` of docker-compose.yml on its own, without its GPUs on a machine that has none."""
    spec = {**auxiliary.always(), **auxiliary.ollama()}
    del spec["profiles"]
    if not gpu:
        del spec["deploy"]
    return yaml.safe_dump({"name": "vllm", "services": {"ollama": spec}, "volumes": {"ollama": None}}, sort_keys=False)


def _url() -> str:
    """Where the official client asks, by `OLLAMA_HOST`."""
    with ollama.Client() as client:
        return str(client._client.base_url).rstrip("/")


def _version(url: str) -> str | None:
    """The version of the Ollama that answers at the URL; None where none does. Raises where something else does."""
    try:
        with httpx.Client(trust_env=not _is_local(url), timeout=_ASK_TIMEOUT_S) as http:
            reply = http.get(f"{url}/api/version")
    except httpx.HTTPError:
        return None
    try:
        return str(reply.json()["version"])
    except (ValueError, KeyError, TypeError):
        raise LaunchError(
            f"What answers at {url} is no Ollama (GET /api/version: {reply.status_code}). Check OLLAMA_HOST."
        ) from None


def _await(url: str, timeout_s: float, look: Callable[[], None]) -> str:
    """The version of the Ollama that comes to answer. `look` raises when it is not worth waiting any more."""
    deadline = time.monotonic() + timeout_s
    while (version := _version(url)) is None:
        look()
        if time.monotonic() > deadline:
            raise LaunchError(f"Ollama was started, but does not answer at {url} after {timeout_s:.0f} seconds.")
        time.sleep(_POLL_S)
    return version


def _is_local(url: str) -> bool:
    """Whether it is of this machine: then no proxy of the environment may come between."""
    host = httpx.URL(url).host
    return is_loopback(host) or host in ("0.0.0.0", "::")  # as OLLAMA_HOST has it for `ollama serve`


def _require_local(url: str) -> None:
    if not _is_local(url):
        raise LaunchError(
            f"No Ollama answers at {url} (OLLAMA_HOST), and it can't be started from here: start it there."
        )


def _start_container(url: str, report: Report, timeout_s: float, *, gpu: bool) -> str:
    file = compose_file(gpu=gpu)
    command = [*_compose(), "--file", "-"]
    # Published where it is asked: OLLAMA_HOST alone says so.
    environ = {**os.environ, variables.OLLAMA_PORT.name: str(httpx.URL(url).port or 80)}

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], input=file, env=environ, capture_output=True, text=True, check=False
        )

    def look() -> None:
        if not compose("ps", "--status", "restarting", "--quiet").stdout:
            return
        log = compose("logs", "--no-log-prefix", "--tail", str(_TOLD_LINES)).stdout
        compose("stop")
        raise LaunchError(f"The container of Ollama ends as soon as it is started:\n{_last(log)}")

    done = compose("up", "--detach", "ollama")
    for line in done.stderr.splitlines():
        report(line.strip())
    if done.returncode:
        raise LaunchError(
            f"The container of Ollama could not be started:\n{_last(done.stderr)}\n"
            "An Ollama that is installed on this machine: vllm-launch rollback --runtime process"
        )
    return _await(url, timeout_s, look)


def _last(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-_TOLD_LINES:])


def _compose() -> list[str]:
    """Docker Compose, as the plugin of `docker` or as a command of its own."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise LaunchError(
        "Docker Compose is not here. Install it, or start an Ollama that is installed on this machine: "
        "vllm-launch rollback --runtime process"
    )


def _start_process(url: str, timeout_s: float) -> str:
    if shutil.which("ollama") is None:
        raise LaunchError("There is no `ollama` on this machine. Install it, or run its container: --runtime docker")
    with writing("Ollama's log"):
        state_folder().mkdir(parents=True, mode=0o700, exist_ok=True)
        log = state_folder() / "ollama.log"
        started = groups.spawn(["ollama", "serve"], {**os.environ, "OLLAMA_HOST": url}, log)

    def look() -> None:
        if started.poll() is not None:
            ended = groups.how_it_ended(started.returncode)
            raise LaunchError(f"`ollama serve` ended {ended}:\n{_last(log.read_text(errors='replace'))}")

    assert started.stdin is not None
    with started.stdin as pipe:  # closed without a word, it ends what was started
        version = _await(url, timeout_s, look)
        with contextlib.suppress(BrokenPipeError):
            pipe.write(b"k")  # from now on it outlives this program
    return version


def _missing(url: str, models: Iterable[str]) -> tuple[str, ...]:
    try:
        with ollama.Client(timeout=_ASK_TIMEOUT_S, trust_env=not _is_local(url)) as client:
            there = {_full(entry.model or "") for entry in client.list().models}
    except (ollama.ResponseError, ConnectionError, httpx.HTTPError) as error:
        raise LaunchError(f"Ollama answers at {url}, but does not tell its models: {error}") from error
    return tuple(name for name in models if _full(name) not in there)


def _full(name: str) -> str:
    """A name with its tag, as Ollama lists it."""
    last = name.rpartition("/")[2]
    return (name if ":" in last else f"{name}:latest").lower()
