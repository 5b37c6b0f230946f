"""The guard process of a vLLM server: it ends the server with the program, writes the log, and records the exit status.

    python guard.py LOG BYTES STATUS COMMAND…

The guard leads the server's process group. Its standard input is a pipe that the program keeps open. The pipe closes
when the program ends, even if it is killed, and the guard then ends the server. A byte on the pipe detaches the server:
it keeps running. The server's output goes through a pipe to LOG. At BYTES, LOG is rotated to `LOG.1`, so that no server
fills the disk. On a full disk, output is lost and the server continues. STATUS is overwritten in place and never grows,
so that the guard can write it even then. After the server has exited, the guard ends the rest of its group.

The guard forwards SIGTERM and SIGINT only to the server's main process, as `docker stop` does. That process ends its
children. vLLM's workers exit at the first SIGTERM, even with running requests (0.32,
v1/executor/multiproc_executor.py). The engine core also gets the API server's SIGTERM and hangs if two arrive at nearly
the same time (0.32, v1/engine/core.py: the handler takes a lock that it may hold).

This file depends only on the standard library.
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
"""How long a group may take to exit before it is killed (seconds), after its program has ended."""
_KILLED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.2
_CHUNK = 64 * 1024
_STDIN = 0
_CANNOT_RUN = 127  # the status that shells use


def start_time(pid: int) -> int | None:
    """The start time of a process, in clock ticks since the machine's start; None if it is gone (proc(5), field 22)."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def members(group: int) -> list[int]:
    """The running processes of a group. Zombies do not count."""
    found = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [pid for pid in found if (fields := _stat(pid)) and fields[2] == str(group) and fields[0] not in "ZX"]


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s `stat`, from the third (`state`); empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # the process may end after it was listed
        return []


class Log:
    """The server's output: at least the last BYTES, in LOG and `LOG.1`."""

    def __init__(self, path: str, most: int) -> None:
        """Open the file for appending."""
        self._path = path
        self._most = most
        self._open()
        self._lost = 0
        self._why: str | None = None

    def copy(self, source: int) -> bool:
        """Copy the available output. Returns whether more may follow."""
        try:
            text = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if text:
            self.write(text)
        return bool(text)

    def write(self, text: bytes) -> None:
        """Write the text. If that fails, the text is lost, and the next successful write records the loss."""
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
        if os.path.exists(self._path):  # it is missing if the last rotation failed halfway
            os.replace(self._path, self._path + ".1")
        full = self._fd
        self._open()
        os.close(full)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size


class Status:
    """The file STATUS."""

    def __init__(self, path: str) -> None:
        """Open the file, which must exist."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._values: dict[str, object] = {}

    def write(self, **values: object) -> None:
        """Add these values and write all values."""
        self._values |= values
        os.pwrite(self._fd, json.dumps(self._values).encode().ljust(STATUS_BYTES), 0)


def main(log_path: str, most: str, status_path: str, *command: str) -> int:
    """Run the command and return its exit status. End it if the program ends first."""
    signals = _signals(signal.SIGINT, signal.SIGTERM)
    log, status = Log(log_path, int(most)), Status(status_path)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        log.write(f"vllm-launch: {command[0]} cannot be run: {error.strerror}\n".encode())
        status.write(status=_CANNOT_RUN)
        return _CANNOT_RUN
    status.write(pid=server.pid, start_time=start_time(server.pid))
    assert server.stdout is not None
    output = server.stdout.fileno()
    os.set_blocking(output, False)
    if _watch(server, output, signals, log):
        status.write(status=server.returncode)
    else:
        status.write(abandoned=True)
    _end_others(output, log)
    server.poll()
    return server.returncode if server.returncode is not None else -signal.SIGKILL


def _signals(*numbers: signal.Signals) -> int:
    """Catch these signals. Their numbers can be read from the returned pipe, one byte each."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in numbers:  # with a handler: the server would inherit an ignored signal
        signal.signal(number, lambda *_: None)
    return reader


def _watch(server: subprocess.Popen[bytes], output: int, signals: int, log: Log) -> bool:
    """Wait for an end. True: the server has ended. False: the program has ended without detaching the server."""
    watched = [_STDIN, output, signals]
    while server.poll() is None:
        ready, _, _ = select.select(watched, [], [], _LOOK_EVERY_S)
        if signals in ready:
            for number in os.read(signals, _CHUNK):
                server.send_signal(number)
        if output in ready and not log.copy(output):
            watched.remove(output)
        if _STDIN in ready:
            watched.remove(_STDIN)
            if not os.read(_STDIN, 1):
                return False
    return True


def _end_others(output: int, log: Log) -> None:
    """End the other processes of the group, and copy their remaining output."""
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
    """The other processes of the group; empty without /proc."""
    if sys.platform != "linux":
        return []
    return [pid for pid in members(os.getpid()) if pid != os.getpid()]


def _end_alike(status: int) -> int:
    """End like the server: return its exit status, or end this process by the signal that ended the server."""
    if status >= 0:
        return status
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status  # for a signal that does not end a process


if __name__ == "__main__":
    sys.exit(_end_alike(main(*sys.argv[1:])))
