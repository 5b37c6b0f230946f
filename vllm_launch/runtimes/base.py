"""What every runtime can do with a server, and how it tells of one. `up.py` does everything else, for both alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..errors import LaunchError
from ..servers import Server

__all__ = ["Instance", "LaunchError", "Report", "Runtime", "RuntimeName", "State"]

RuntimeName: TypeAlias = Literal["docker", "process"]
State: TypeAlias = Literal["running", "restarting", "exited"]
"""Whether its process is there. Whether it answers, `ready.py` asks the server itself."""

Report: TypeAlias = Callable[[str], None]
"""Told what is being done while something takes long: one line of plain text."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A server as a runtime has it."""

    server: Server
    """The description that it was started from."""
    runtime: RuntimeName
    state: State
    id: str
    """The id of the container (12 characters), or of the process that leads its group."""
    started_at: float
    """Seconds since 1970."""
    ended: str = ""
    """How it ended, in words, as `with status 1`; empty while it runs."""
    kept: bool = True
    """Whether it outlives its launcher (`Runtime.keep`)."""
    unhealthy: str = ""
    """What the runtime's own health check has against it, in words; empty where it has nothing, or there is none."""
    restarts: int = 0
    """How often the runtime has started it again by itself."""

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server.name


class Runtime(Protocol):
    """Starts servers, finds them again, and stops them. All of it raises `LaunchError`."""

    name: RuntimeName

    def prepare(self, server: Server, report: Report) -> None:
        """Bring here what the start needs (an image), and refuse what can't be started (no GPU, a taken name)."""
        ...

    def start(self, server: Server) -> Instance:
        """Start it and return at once. Until `keep` is called it ends with this program, and is not started again."""
        ...

    def keep(self, instance: Instance) -> None:
        """It is ready: from now on it outlives this program, and is started again where the runtime can do that.

        Harmless where it is kept already. One whose launcher is gone is kept too; where that still runs, keeping it may
        be refused: it is that one's to keep.
        """
        ...

    def stop(self, instance: Instance, grace: float) -> None:
        """Ask it to end, wait up to `grace` seconds, then kill it; nothing of it is left. Harmless where it is gone."""
        ...

    def instances(self) -> list[Instance]:
        """What there is of this launcher's servers, those that have exited among them, by name."""
        ...

    def log(self, instance: Instance, lines: int | None = None) -> str:
        """What it has written, or the last lines of it."""
        ...

    def follow(self, instance: Instance, lines: int | None = None) -> Iterator[str]:
        """What it has written, and then what it writes, line by line without line ends, until it ends."""
        ...
