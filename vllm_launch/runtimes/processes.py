"""The runtime that runs servers as processes of this machine. They outlive the program (see `guard`, `records`).

Each server has one small guard process; there is no daemon. Until a server is detached (`keep`), it ends with its
launcher, even by SIGKILL. Afterwards any launcher finds it by its record. A process receives a signal only if its pid
and its start time match the record.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

from ..servers import Server
from . import groups, guard, logfile, ports, preflight
from .base import Instance, LaunchError, Report, RuntimeName
from .records import Record, Records, boot_id
from .state import writing

_ABANDONED_ENDS_WITHIN_S = guard.GRACE_S + 2.0
_LOOK_EVERY_S = 0.05


class Processes:
    """The runtime of plain processes."""

    name: RuntimeName = "process"

    def __init__(self, *, python: str | None = None, log_bytes: int = groups.LOG_BYTES) -> None:
        """`python`: the Python with vLLM; None: search for it. `log_bytes`: see `groups.LOG_BYTES`."""
        self._python = python
        self._log_bytes = log_bytes
        self._records = Records()
        self._guards: dict[str, subprocess.Popen[bytes]] = {}
        """The guards of the servers that this program started. Each pipe stays open until the server is detached."""

    def prepare(self, server: Server, report: Report) -> None:
        """Raise if the server cannot start. A running server of the same name is allowed: it may be replaced."""
        report("Looking for vLLM")
        preflight.check(server, self._python)
        self._require_port(server)
        self._records.require_writable()

    def start(self, server: Server) -> Instance:
        """Start the server without waiting. Until `keep` is called, it ends with this program."""
        self._require_name(server)
        self._require_port(server)
        env = groups.environment(server)
        command = server.command(preflight.find_python(self._python, env))
        self._records.begin(server.name)
        log, status = self._records.log(server.name), self._records.status_file(server.name)
        with writing(f"The log of {server.name}"):
            started = groups.spawn(command, env, log, status=status, log_bytes=self._log_bytes)
        self._guards[server.name] = started
        record = Record(
            server=server,
            leader=groups.identity(started.pid) or groups.Identity(started.pid, 0),  # 0: it has ended already
            launcher=groups.Identity(os.getpid(), guard.start_time(os.getpid()) or 0),
            boot_id=boot_id(),
            log=log,
            started_at=time.time(),
        )
        try:
            self._records.write(record)
        except BaseException:
            groups.kill(started.pid)
            started.wait()
            self._let_go(server.name)
            raise
        return self._instance(record)

    def keep(self, instance: Instance) -> None:
        """Detach a ready server: it outlives this program. It is not restarted."""
        record = self._record(instance)
        if record is None or not record.runs(self._records.status(record.name)):
            raise LaunchError(f"The vLLM server {instance.name!r} ended before it could be detached.")
        if record.kept:
            return
        started = self._guards.get(record.name)
        if started is None and record.launcher.runs:
            raise LaunchError(
                f"Another vllm-launch (process {record.launcher.pid}) is starting the vLLM server {instance.name!r}: "
                "only that process may detach it."
            )
        self._records.write(record.model_copy(update={"kept": True}))
        if started is not None and started.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # the guard was killed, so the server is detached already
                started.stdin.write(b"k")
            started.stdin.close()

    def stop(self, instance: Instance, grace: float) -> None:
        """Stop the server: send a signal, wait up to `grace` seconds, then kill it. Harmless if it is gone."""
        record = self._record(instance)
        if record is None:
            return
        if record.runs(self._records.status(record.name)):
            self._end(record, grace)
        self._let_go(record.name)
        self._records.remove(record.name)

    def instances(self) -> list[Instance]:
        """The servers with a record, sorted by name. Raises `LaunchError` if a record is invalid."""
        return [self._instance(record) for record in self._records.all()]

    def log(self, instance: Instance, lines: int | None = None) -> str:
        """The log, or its last lines. It contains at least the last `log_bytes`."""
        return logfile.read(self._records.log(instance.name), lines)

    def follow(self, instance: Instance, lines: int | None = None) -> Iterator[str]:
        """The lines of the log and then all new lines, until the server ends."""

        def runs() -> bool:
            record = self._record(instance)
            return record is not None and self._instance(record).state == "running"

        return logfile.follow(self._records.log(instance.name), lines, runs)

    def _instance(self, record: Record) -> Instance:
        self._look_at(record.name)
        self._let_abandoned_end(record)
        status = self._records.status(record.name)
        return Instance(
            server=record.server,
            runtime="process",
            state="running" if record.runs(status) else "exited",
            id=str(record.leader.pid),
            started_at=record.started_at,
            ended=record.ended(status),
            kept=record.kept,
        )

    def _record(self, instance: Instance) -> Record | None:
        """The record of this start; None if it is gone."""
        record = self._records.read(instance.name)
        if record is None or (str(record.leader.pid), record.started_at) != (instance.id, instance.started_at):
            return None
        return record

    def _require_name(self, server: Server) -> None:
        record = self._records.read(server.name)
        if record is not None and self._instance(record).state == "running":
            raise LaunchError(f"A vLLM server {server.name!r} runs already (process {record.leader.pid}).")

    def _require_port(self, server: Server) -> None:
        refused = ports.refusal(server.host, server.port)
        if refused is None:
            return
        ours = [each for each in self.instances() if each.state == "running" and each.server.port == server.port]
        if any(each.name == server.name for each in ours):
            return
        if ours:
            cause, advice = f"the vLLM server {ours[0].name!r} uses it", f"Stop that (vllm-launch down {ours[0].name})"
        else:
            holder = ports.listener(server.port)
            cause = f"{holder} uses it" if holder else (refused.strerror or str(refused))
            advice = "Stop the program that listens on it"
        raise LaunchError(
            f"{server.host}:{server.port}, the address of the vLLM server {server.name!r}, cannot be used: {cause}. "
            f"{advice}, or choose another port."
        )

    def _end(self, record: Record, grace: float) -> None:
        group = record.leader.pid
        try:
            groups.ask_to_end(group)
            groups.await_end(group, time.monotonic() + grace, lambda: self._look_at(record.name))
        except PermissionError as error:
            raise LaunchError(f"The vLLM server {record.name!r} (process {group}) belongs to another user.") from error
        if groups.runs(group):
            raise LaunchError(
                f"The vLLM server {record.name!r} (process group {group}) does not exit after SIGKILL: "
                "it waits for a device or a disk. Its record stays. Stop it again later."
            )

    def _let_abandoned_end(self, record: Record) -> None:
        """Wait for a server whose launcher is gone: its guard is ending it."""
        if record.kept or record.launcher.runs:
            return
        deadline = time.monotonic() + _ABANDONED_ENDS_WITHIN_S
        while record.guarded and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)

    def _look_at(self, name: str) -> None:
        """Reap the guard if it is a child of this program and has ended, so that no zombie remains."""
        if started := self._guards.get(name):
            started.poll()

    def _let_go(self, name: str) -> None:
        started = self._guards.pop(name, None)
        if started is not None:
            started.poll()
            if started.stdin is not None:
                started.stdin.close()
