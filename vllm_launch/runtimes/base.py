"""The interface of the runtimes, and the state of a server. `up.py` uses both runtimes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..errors import LaunchError
from ..servers import Server

__all__ = ["Instance", "LaunchError", "Report", "Runtime", "RuntimeName", "State"]

RuntimeName: TypeAlias = Literal["docker", "process"]
State: TypeAlias = Literal["running", "restarting", "exited"]
"""The state of the process. `ready.py` checks whether the server answers."""

Report: TypeAlias = Callable[[str], None]
"""Receives the progress of a long operation: one line of plain text per call."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A server of a runtime."""

    server: Server
    """The description from which the server was started."""
    runtime: RuntimeName
    state: State
    id: str
    """The id of the container (12 characters), or of the process that leads its group."""
    started_at: float
    """Seconds since 1970."""
    ended: str = ""
    """How the process ended, such as `with status 1`; empty while it runs."""
    kept: bool = True
    """Whether the server outlives its launcher (`Runtime.keep`)."""
    unhealthy: str = ""
    """The error of the runtime's health check; empty without an error or a check."""
    restarts: int = 0
    """How often the runtime has restarted the server."""

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server.name


class Runtime(Protocol):
    """Starts, lists and stops servers. All methods raise `LaunchError`."""

    name: RuntimeName

    def prepare(self, server: Server, report: Report) -> None:
        """Fetch what the start needs (an image). Raise if the server cannot start (no GPU, a name in use)."""
        ...

    def start(self, server: Server) -> Instance:
        """Start the server without waiting. Until `keep` is called, it ends with this program and is not restarted."""
        ...

    def keep(self, instance: Instance) -> None:
        """Detach a ready server from its launcher: it outlives this program, and the runtime may restart it.

        Harmless for a detached server. It also detaches a server whose launcher is gone. While another launcher still
        runs, the call may raise: only that launcher may detach its server.
        """
        ...

    def stop(self, instance: Instance, grace: float) -> None:
        """Stop the server: send a signal, wait up to `grace` seconds, then kill it. Harmless if it is gone."""
        ...

    def instances(self) -> list[Instance]:
        """The servers of all launchers, sorted by name, including those that have exited."""
        ...

    def log(self, instance: Instance, lines: int | None = None) -> str:
        """The server's log, or its last lines."""
        ...

    def follow(self, instance: Instance, lines: int | None = None) -> Iterator[str]:
        """The lines of the log and then all new lines, without line ends, until the server ends."""
        ...
