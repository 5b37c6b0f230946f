"""What the launcher remembers of each server that runs as a process: a record, a log, and how it ended.

<state folder>/processes/<name>.json     the record, replaced as a whole
                         <name>.status   written by the server's guard: its process, how it ended
                         <name>.log      what it writes; `<name>.log.1` before that
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
    """What a server's guard tells of it."""

    pid: int = 0
    start_time: int | None = None
    status: int | None = None
    """The exit status, or a signal's number, negative; None while it runs, and where nobody was there to see it."""
    abandoned: bool = False
    """Whether it was ended because its launcher had gone before it was kept."""


class Record(BaseModel):
    """A server that runs, or ran, as a process of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: Server
    leader: Identity
    """Its guard, which leads its group."""
    launcher: Identity
    """Who started it, and has it until it is kept."""
    boot_id: str
    """Numbers and start times of processes mean nothing after the machine's next start."""
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
        """Whether its guard runs."""
        return self.boot_id == boot_id() and self.leader.runs

    def runs(self, status: Status) -> bool:
        """Whether anything of it runs: its guard, or the server itself where the guard was killed."""
        if self.boot_id != boot_id():
            return False
        return self.leader.runs or (status.start_time is not None and Identity(status.pid, status.start_time).runs)

    def ended(self, status: Status) -> str:
        """How it ended, in words; empty while it runs."""
        if self.runs(status):
            return ""
        if status.status is not None:
            return how_it_ended(status.status)
        if status.abandoned:
            return "with the launcher that was starting it"
        if self.boot_id != boot_id():
            return "when the machine was restarted"
        return "killed together with the process that watched it"


class Records:
    """The records in the state folder."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._folder = state_folder() / "processes"

    def log(self, name: str) -> Path:
        """Where a server's log is."""
        return self._folder / f"{name}.log"

    def status_file(self, name: str) -> Path:
        """Where its guard tells of it."""
        return self._folder / f"{name}.status"

    def try_out(self) -> None:
        """Raises `LaunchError` where nothing can be written."""
        with writing("Logs"):
            self._make_folder()
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())

    def begin(self, name: str) -> None:
        """Make room for what a guard will tell, which then can be told on a full disk too. Raises `LaunchError`."""
        with writing(f"The status of {name}"):
            self._make_folder()
            self._replace(self.status_file(name), b" " * guard.STATUS_BYTES)

    def write(self, record: Record) -> None:
        """Write it in place of the one of this name. Raises `LaunchError`."""
        with writing(f"The record of {record.name}"):
            self._replace(self._path(record.name), record.model_dump_json(indent=2).encode())

    def read(self, name: str) -> Record | None:
        """The record of a server; None where there is none. Raises `LaunchError` where it can't be read."""
        path = self._path(name)
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not as this version of vllm-launch writes it"
            raise LaunchError(
                f"The record of the vLLM server {name!r}, {path}, can't be read: {why}. "
                "If another version wrote it, stop the server with that one; else delete the file."
            ) from error

    def all(self) -> list[Record]:
        """All records, by name. Raises `LaunchError` where one can't be read."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [record for name in names if (record := self.read(name)) is not None]

    def on_port(self, port: int) -> str | None:
        """The name of the server that runs on a port; None where none does. Raises `LaunchError`."""
        runs = (each.name for each in self.all() if each.server.port == port and each.runs(self.status(each.name)))
        return next(runs, None)

    def status(self, name: str) -> Status:
        """What its guard has told so far."""
        with contextlib.suppress(OSError, ValidationError):
            return Status.model_validate_json(self.status_file(name).read_bytes())
        return Status()

    def remove(self, name: str) -> None:
        """Forget a server; its log stays until the next start."""
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
    """Tells one start of the machine from another (random(4), /proc/sys/kernel/random)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
