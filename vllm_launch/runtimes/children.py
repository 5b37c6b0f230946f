"""Runs vLLM servers as child processes, for programs that need servers while they run, such as tests.

All servers start at once. They stop when their context ends, on Ctrl-C, when the interpreter exits, and, through
`guard`, when this process is killed.

    with running([chat, embed], python="…/bin/python", log_dir=Path("logs")) as (chat_process, embed_process):
        httpx.get(chat_process.url + "/v1/models")
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from .. import causes, logs
from . import groups, logfile, ports
from .base import LaunchError

if TYPE_CHECKING:
    from types import TracebackType

    from ..servers import Server

READY_TIMEOUT_S = 600.0
STOP_GRACE_S = 15.0
# A loading server has no requests to finish, and vLLM does not always react to the signal then.
_LOADING_GRACE_S = 2.0
_POLL_S = 0.25
_READ_LINES = 400


class ServerError(LaunchError):
    """A server did not start. The message contains the likely cause and the path of the log."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one server's start."""

    server: Server
    seconds: float
    line: str
    """A description of the current step, from the log."""
    ready: bool


OnProgress = Callable[[Progress], None]


class ServerProcess:
    """One vLLM server as a child process. As a context manager, it starts the server, waits for it, and stops it."""

    def __init__(self, server: Server, *, python: str | Path, log_dir: Path) -> None:
        """Start nothing yet. The log is `<log_dir>/<server.name>.log`; each start overwrites it."""
        self.server = server
        self.log_path = log_dir / f"{server.name}.log"
        self._python = str(python)
        self._popen: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._started_by = 0
        self._terminated_at = 0.0
        self._ready = False

    @property
    def url(self) -> str:
        """The base URL of the API, without `/v1`."""
        return self.server.base_url

    @property
    def pid(self) -> int | None:
        """The id of the server's process group and of its leader; None before the start."""
        return self._popen.pid if self._popen else None

    @property
    def running(self) -> bool:
        """Whether the process runs; the server may still be loading."""
        return self._popen is not None and self._popen.poll() is None

    def exit_reason(self) -> str:
        """How the server ended; empty while it runs."""
        status = self._popen.poll() if self._popen else None
        return "" if status is None else groups.how_it_ended(status)

    def group_runs(self) -> bool:
        """Whether any process of the server's group runs, including the engine core."""
        return self._popen is not None and groups.runs(self._popen.pid)

    def start(self) -> None:
        """Start the server without waiting. `wait_ready` waits for it."""
        if self._popen:
            raise ServerError(f"The vLLM server {self.server.name!r} has been started already.")
        _require_free_port(self.server)
        if shutil.which(self._python) is None:
            raise ServerError(f"There is no Python {self._python!r} to start the vLLM server {self.server.name!r}.")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = self.server.command(self._python)
        self._popen = groups.spawn(command, groups.environment(self.server), self.log_path)
        self._started_at = time.monotonic()
        self._started_by = os.getpid()
        _started.append(self)

    def wait_ready(self, timeout: float = READY_TIMEOUT_S, on_progress: OnProgress | None = None) -> None:
        """Wait until the server answers `GET /health`. Raises `ServerError` if it exits or takes too long."""
        _wait_ready([self], timeout, on_progress)

    def terminate(self) -> None:
        """Send the stop signal without waiting."""
        if self._popen:
            self._terminated_at = time.monotonic()
            groups.ask_to_end(self._popen.pid)

    def stop(self, grace: float = STOP_GRACE_S) -> None:
        """Stop the process group: send a signal, wait up to `grace` seconds, then kill. A second call is harmless."""
        if self._popen is None:
            return
        if not self._terminated_at:
            self.terminate()
        deadline = self._terminated_at + (grace if self._ready else min(grace, _LOADING_GRACE_S))
        groups.await_end(self._popen.pid, deadline, self._popen.poll)
        self._popen.communicate()
        if self in _started:
            _started.remove(self)

    def _look(self, http: httpx.Client) -> Progress:
        if not self.running:
            raise ServerError(self._explain(f"ended while it was starting, {self.exit_reason()}"))
        with contextlib.suppress(httpx.HTTPError):
            self._ready = http.get(f"{self.url}/health").is_success
        seconds = time.monotonic() - self._started_at
        return Progress(self.server, seconds, logs.activity(self._log()), self._ready)

    def _explain(self, what: str) -> str:
        return causes.failure_report(self.server.name, what, self._log(), self.exit_reason(), self.log_path)

    def _log(self) -> str:
        return logfile.read(self.log_path, _READ_LINES)

    def __enter__(self) -> Self:
        """Start the server and wait until it is ready."""
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()


@contextlib.contextmanager
def running(
    servers: Sequence[Server],
    *,
    python: str | Path,
    log_dir: Path,
    timeout: float = READY_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> Iterator[list[ServerProcess]]:
    """Start all servers concurrently, yield their processes once all are ready, and stop all of them at the end."""
    _require_distinct(servers)
    processes = [ServerProcess(server, python=python, log_dir=log_dir) for server in servers]
    try:
        for process in processes:
            process.start()
        _wait_ready(processes, timeout, on_progress)
        yield processes
    finally:
        stop_all(processes)


def stop_all(processes: Sequence[ServerProcess]) -> None:
    """Stop several servers concurrently: all receive the signal before the first wait."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.stop()


def _wait_ready(processes: Sequence[ServerProcess], timeout: float, on_progress: OnProgress | None) -> None:
    report = on_progress or (lambda _: None)
    waiting = list(processes)
    # Requests to a child process ignore the proxy variables.
    with httpx.Client(trust_env=False, timeout=5.0) as http:
        while waiting:
            for process in waiting[:]:
                progress = process._look(http)
                report(progress)
                if progress.ready:
                    waiting.remove(process)
                elif progress.seconds > timeout:
                    raise ServerError(process._explain(f"was not ready after {timeout:.0f} seconds"))
            if waiting:
                time.sleep(_POLL_S)


def _require_free_port(server: Server) -> None:
    if error := ports.refusal(server.host, server.port):
        raise ServerError(
            f"Port {server.port} of the vLLM server {server.name!r} cannot be used: {error.strerror}. "
            "Stop the program that listens on it, or choose another port."
        )


def _require_distinct(servers: Sequence[Server]) -> None:
    for what, values in (("name", [s.name for s in servers]), ("port", [str(s.port) for s in servers])):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise ServerError(f"Two servers have the same {what}: {', '.join(sorted(twice))}.")


_started: list[ServerProcess] = []


@atexit.register
def _stop_what_is_left() -> None:
    # A fork of this process has a copy of the list, but the servers are not its children.
    stop_all([process for process in _started if process._started_by == os.getpid()])
