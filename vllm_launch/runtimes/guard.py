"""Stands between a program and its vLLM server: ends the server with the program, keeps its log, tells how it ended.

    python guard.py LOG BYTES STATUS COMMAND…

It leads the server's process group. Its standard input is a pipe that the program holds open: the pipe's end is the
program's end, since even a killed program's pipes are closed, and ends the server. A byte before that hands the server
over: it stays. What the server writes goes through a pipe to LOG, which becomes `LOG.1` at BYTES, so that no server
can fill a disk; on a full one lines are lost, and the server goes on. STATUS is overwritten in place and never grows,
so that the end can be told even then. When the server has ended, the rest of its group is ended too.

SIGTERM and SIGINT are handed on to the server alone, as an engine's `docker stop` does. The processes that it has
started are for it to end: vLLM's workers leave at the first SIGTERM, whatever is being answered (0.32,
v1/executor/multiproc_executor.py), and its engine core, which gets the API server's SIGTERM too, hangs when two come at
nearly the same time (0.32, v1/engine/core.py: the handler takes a lock that it may hold).

This file needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

STATUS_BYTES = 256
"""The length of STATUS: JSON, then spaces."""
GRACE_S = 2.0
"""How long a group may take to end before it is killed (seconds), when nobody is left who would wait longer."""
_KILLED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.2
_CHUNK = 64 * 1024
_STDIN = 0
_CANNOT_RUN = 127  # as shells have it


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where it is gone (proc(5), field 22)."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def members(group: int) -> list[int]:
    """The processes of a group that run. One that has ended but that nobody has collected does not count."""
    found = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [pid for pid in found if (fields := _stat(pid)) and fields[2] == str(group) and fields[0] not in "ZX"]


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s `stat` from the third, `state`, on; none where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it may end between the listing and the look
        return []


class Log:
    """What the server writes, the last BYTES of it at least, in LOG and `LOG.1`."""

    def __init__(self, path: str, most: int) -> None:
        """It is appended to what is there."""
        self._path = path
        self._most = most
        self._open()
        self._lost = 0
        self._why: str | None = None

    def copy(self, source: int) -> bool:
        """Take what can be read now; whether more may come."""
        try:
            text = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if text:
            self.write(text)
        return bool(text)

    def write(self, text: bytes) -> None:
        """Write it; where that can't be done, it is lost, and the next line that can be written says so."""
        try:
            if self._size >= self._most:
                self._rotate()
            if self._lost:
                self._put(f"vllm-launch: {self._lost} bytes of this log were lost: {self._why}\n".encode())
                self._lost = 0
            self._put(text)
        except OSError as error:
            self._lost += len(text)
            self._why = error.strerror

    def _put(self, text: bytes) -> None:
        while text:
            written = os.write(self._fd, text)
            self._size += written
            text = text[written:]

    def _rotate(self) -> None:
        if os.path.exists(self._path):  # not so, where the last try came only half through
            os.replace(self._path, self._path + ".1")
        full = self._fd
        self._open()
        os.close(full)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size


class Status:
    """What STATUS tells of the server."""

    def __init__(self, path: str) -> None:
        """The file is there already."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._told: dict[str, object] = {}

    def tell(self, **told: object) -> None:
        """Add to what is told."""
        self._told |= told
        os.pwrite(self._fd, json.dumps(self._told).encode().ljust(STATUS_BYTES), 0)


def main(log_path: str, most: str, status_path: str, *command: str) -> int:
    """Runs the command and returns its exit status, unless the program goes first."""
    asked = _signals(signal.SIGINT, signal.SIGTERM)
    log, status = Log(log_path, int(most)), Status(status_path)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        log.write(f"vllm-launch: {command[0]} can't be run: {error.strerror}\n".encode())
        status.tell(status=_CANNOT_RUN)
        return _CANNOT_RUN
    status.tell(pid=server.pid, start_time=start_time(server.pid))
    assert server.stdout is not None
    output = server.stdout.fileno()
    os.set_blocking(output, False)
    if _watch(server, output, asked, log):
        status.tell(status=server.returncode)
    else:
        status.tell(abandoned=True)
    _end_others(output, log)
    server.poll()
    return server.returncode if server.returncode is not None else -signal.SIGKILL


def _signals(*numbers: signal.Signals) -> int:
    """From now on these end nothing; their numbers can be read, a byte each, from the pipe that is returned."""
    asked, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    for number in numbers:  # handled, not ignored: the server would inherit that
        signal.signal(number, lambda *_: None)
    return asked


def _watch(server: subprocess.Popen[bytes], output: int, asked: int, log: Log) -> bool:
    """Returns True when the server has ended, False when the program has, without handing it over."""
    watched = [_STDIN, output, asked]
    while server.poll() is None:
        ready, _, _ = select.select(watched, [], [], _LOOK_EVERY_S)
        if asked in ready:
            for number in os.read(asked, _CHUNK):
                server.send_signal(number)
        if output in ready and not log.copy(output):
            watched.remove(output)
        if _STDIN in ready:
            watched.remove(_STDIN)
            if not os.read(_STDIN, 1):
                return False
    return True


def _end_others(output: int, log: Log) -> None:
    """End what is left of the group, but for this process, and take what it still writes."""
    if _others():
        os.killpg(0, signal.SIGTERM)
        _await_others(output, log, GRACE_S)
        for pid in _others():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _await_others(output, log, _KILLED_WITHIN_S)
    while select.select([output], [], [], 0)[0] and log.copy(output):
        pass


def _await_others(output: int, log: Log, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _others() and time.monotonic() < deadline:
        if not (select.select([output], [], [], 0.05)[0] and log.copy(output)):
            time.sleep(0.05)


def _others() -> list[int]:
    """The rest of the group; where there is no /proc, nobody knows."""
    if sys.platform != "linux":
        return []
    return [pid for pid in members(os.getpid()) if pid != os.getpid()]


def _end_alike(status: int) -> int:
    """The exit status to end with; a signal that ended the server ends this process, so that the program can tell."""
    if status >= 0:
        return status
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status  # of a signal that ends nothing


if __name__ == "__main__":
    sys.exit(_end_alike(main(*sys.argv[1:])))
