"""Servers as plain processes of this machine, which outlive the program that starts them; see `guard` and `records`.

Beside vLLM itself there is one small process a server, its guard, and nothing else: no daemon. A server belongs to the
launcher until it is kept, and ends with it, even by SIGKILL; from then on it belongs to its record, by which any later
launcher finds it. A process is only ever signalled when its number and its start time are the recorded ones.
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
        """`python`: the one that has vLLM, if it is not to be looked for. `log_bytes`: see `groups.LOG_BYTES`."""
        self._python = python
        self._log_bytes = log_bytes
        self._records = Records()
        self._guards: dict[str, subprocess.Popen[bytes]] = {}
        """Of the servers that this program has started; each holds the pipe until the server is kept."""

    def prepare(self, server: Server, report: Report) -> None:
        """Refuse what can't be started. A server of the same name is no hindrance: it may be about to be replaced."""
        report("Looking for vLLM")
        preflight.check(server, self._python)
        self._require_port(server)
        self._records.try_out()

    def start(self, server: Server) -> Instance:
        """Start it and return at once. Until `keep` is called it ends with this program."""
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
        """It is ready: from now on it outlives this program. Nothing starts it again when it ends."""
        record = self._record(instance)
        if record is None or not record.runs(self._records.status(record.name)):
            raise LaunchError(f"The vLLM server {instance.name!r} has ended before it could be kept.")
        if record.kept:
            return
        started = self._guards.get(record.name)
        if started is None and record.launcher.runs:
            raise LaunchError(
                f"The vLLM server {instance.name!r} is being started by another vllm-launch "
                f"(process {record.launcher.pid}): it is not this one's to keep."
            )
        self._records.write(record.model_copy(update={"kept": True}))
        if started is not None and started.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # its guard was killed: then nothing ends it with this program
                started.stdin.write(b"k")
            started.stdin.close()

    def stop(self, instance: Instance, grace: float) -> None:
        """Ask it to end, wait up to `grace` seconds, then kill it. Harmless where it is gone."""
        record = self._record(instance)
        if record is None:
            return
        if record.runs(self._records.status(record.name)):
            self._end(record, grace)
        self._let_go(record.name)
        self._records.remove(record.name)

    def instances(self) -> list[Instance]:
        """The servers there are records of, by name. Raises `LaunchError` where a record can't be read."""
        return [self._instance(record) for record in self._records.all()]

    def log(self, instance: Instance, lines: int | None = None) -> str:
        """What it has written, or the last lines of it: the last `log_bytes` at least."""
        return logfile.read(self._records.log(instance.name), lines)

    def follow(self, instance: Instance, lines: int | None = None) -> Iterator[str]:
        """What it has written, and then what it writes, line by line, until it ends."""

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
        """The record of this very start; None where it is gone."""
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
            who, advice = f"the vLLM server {ours[0].name!r} has it", f"Stop that (vllm-launch down {ours[0].name})"
        else:
            holder = ports.listener(server.port)
            who = f"{holder} has it" if holder else (refused.strerror or str(refused))
            advice = "Stop what listens there"
        raise LaunchError(
            f"{server.host}:{server.port}, wanted for the vLLM server {server.name!r}, can't be used: {who}. "
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
                f"The vLLM server {record.name!r} (process group {group}) does not end, even by SIGKILL: "
                "it waits for a device or a disk. Its record stays; stop it again later."
            )

    def _let_abandoned_end(self, record: Record) -> None:
        """Wait for a server whose launcher is gone, and which its guard is about to end."""
        if record.kept or record.launcher.runs:
            return
        deadline = time.monotonic() + _ABANDONED_ENDS_WITHIN_S
        while record.guarded and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)

    def _look_at(self, name: str) -> None:
        """Take note of the end of a guard that is a child of this program, so that it leaves no zombie."""
        if started := self._guards.get(name):
            started.poll()

    def _let_go(self, name: str) -> None:
        started = self._guards.pop(name, None)
        if started is not None:
            started.poll()
            if started.stdin is not None:
                started.stdin.close()
