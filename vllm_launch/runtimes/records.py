"""The records of servers that run as processes: a record, a log, and the exit status of each.

<state folder>/processes/<name>.json     the record, replaced atomically
                         <name>.status   written by the server's guard: the process, the exit status
                         <name>.log      the output; `<name>.log.1` is the older part
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..servers import Server
from . import guard
from .base import LaunchError
from .groups import Identity, how_it_ended
from .state import state_folder, writing


class Status(BaseModel):
    """The status that the server's guard writes."""

    pid: int = 0
    start_time: int | None = None
    status: int | None = None
    """The exit status, or the negative number of a signal; None while the server runs, and if it is unknown."""
    abandoned: bool = False
    """Whether the guard ended the server because its launcher had ended before detaching it."""


class Record(BaseModel):
    """The record of a server that runs or ran as a process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: Server
    leader: Identity
    """The guard, which leads the process group."""
    launcher: Identity
    """The launcher that started the server. The server depends on it until it is detached."""
    boot_id: str
    """The boot of the machine. After a reboot, pids and start times are invalid."""
    log: Path
    started_at: float
    """Seconds since 1970."""
    kept: bool = False

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server.name

    @property
    def guarded(self) -> bool:
        """Whether the guard runs."""
        return self.boot_id == boot_id() and self.leader.runs

    def runs(self, status: Status) -> bool:
        """Whether the guard runs, or the server if the guard was killed."""
        if self.boot_id != boot_id():
            return False
        return self.leader.runs or (status.start_time is not None and Identity(status.pid, status.start_time).runs)

    def ended(self, status: Status) -> str:
        """A description of the exit; empty while the server runs."""
        if self.runs(status):
            return ""
        if status.status is not None:
            return how_it_ended(status.status)
        if status.abandoned:
            return "with the launcher that was starting it"
        if self.boot_id != boot_id():
            return "when the machine was restarted"
        return "killed together with its guard process"


class Records:
    """The records in the state folder."""

    def __init__(self) -> None:
        """Write nothing yet."""
        self._folder = state_folder() / "processes"

    def log(self, name: str) -> Path:
        """The path of a server's log."""
        return self._folder / f"{name}.log"

    def status_file(self, name: str) -> Path:
        """The path of the file that the guard writes."""
        return self._folder / f"{name}.status"

    def require_writable(self) -> None:
        """Raise `LaunchError` if the folder is not writable."""
        with writing("Logs"):
            self._make_folder()
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())

    def begin(self, name: str) -> None:
        """Allocate the status file, so that the guard can write it on a full disk. Raises `LaunchError`."""
        with writing(f"The status of {name}"):
            self._make_folder()
            self._replace(self.status_file(name), b" " * guard.STATUS_BYTES)

    def write(self, record: Record) -> None:
        """Write the record, replacing that of the same name. Raises `LaunchError`."""
        with writing(f"The record of {record.name}"):
            self._replace(self._path(record.name), record.model_dump_json(indent=2).encode())

    def read(self, name: str) -> Record | None:
        """The record of a server; None if there is none. Raises `LaunchError` if it is invalid."""
        path = self._path(name)
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = (
                error.strerror
                if isinstance(error, OSError)
                else "its format is not that of this version of vllm-launch"
            )
            raise LaunchError(
                f"The record of the vLLM server {name!r}, {path}, cannot be read: {why}. "
                "If another version wrote it, stop the server with that version. Otherwise delete the file."
            ) from error

    def all(self) -> list[Record]:
        """All records, sorted by name. Raises `LaunchError` if one is invalid."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [record for name in names if (record := self.read(name)) is not None]

    def on_port(self, port: int) -> str | None:
        """The name of the server that runs on a port; None without one. Raises `LaunchError`."""
        runs = (each.name for each in self.all() if each.server.port == port and each.runs(self.status(each.name)))
        return next(runs, None)

    def status(self, name: str) -> Status:
        """The current status from the guard."""
        with contextlib.suppress(OSError, ValidationError):
            return Status.model_validate_json(self.status_file(name).read_bytes())
        return Status()

    def remove(self, name: str) -> None:
        """Remove the record of a server. Its log stays until the next start."""
        for path in (self._path(name), self.status_file(name)):
            with writing(f"The record of {name}"):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _make_folder(self) -> None:
        state_folder().mkdir(parents=True, mode=0o700, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def _replace(self, path: Path, text: bytes) -> None:
        handle, new = tempfile.mkstemp(dir=self._folder, prefix=".")  # 0600
        try:
            with open(handle, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise


@functools.cache
def boot_id() -> str:
    """The identifier of the machine's current boot (random(4), /proc/sys/kernel/random)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
