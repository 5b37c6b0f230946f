"""The guard process: log rotation, and the status of the server."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from vllm_launch.runtimes import guard
from vllm_launch.runtimes.guard import Log

from .fake_server import group_is_there, until

FAMILY = """
import signal, subprocess
from pathlib import Path

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])  # pending signals are visible
worker = subprocess.Popen(["sleep", "600"])
print("up", flush=True)
number = signal.sigwait([signal.SIGTERM, signal.SIGINT])
status = dict(line.split(":", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
print(number.name, "for the worker too" if int(status["ShdPnd"], 16) else "for the server alone")
worker.kill()
"""


@pytest.fixture
def log(tmp_path):
    return Log(str(tmp_path / "log"), 10)


@pytest.fixture
def run(tmp_path):
    """Runs a guard with a command and returns the guard's process."""
    (tmp_path / "status").write_bytes(b" " * guard.STATUS_BYTES)
    guards = []

    def start(*command):
        arguments = [str(tmp_path / "log"), "1000", str(tmp_path / "status"), *command]
        whole = [sys.executable, "-I", "-S", guard.__file__, *arguments]
        guards.append(subprocess.Popen(whole, stdin=subprocess.PIPE, start_new_session=True))
        return guards[-1]

    yield start
    for each in guards:
        each.kill()
        each.communicate()


def recorded(tmp_path):
    assert (tmp_path / "status").stat().st_size == guard.STATUS_BYTES, "it never grows: a full disk does not matter"
    return json.loads((tmp_path / "status").read_text())


def read(path):
    return path.read_text() if path.exists() else ""


def test_full_log_is_rotated(log, tmp_path):
    for text in (b"one two three\n", b"four\n", b"five six\n", b"seven\n"):
        log.write(text)
    assert ((tmp_path / "log.1").read_text(), (tmp_path / "log").read_text()) == ("four\nfive six\n", "seven\n")


def test_lost_bytes_are_logged_when_the_disk_has_space_again(log, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.write(b"one\n")
        log.write(b"two\n")
    log.write(b"three\n")
    lost = "vllm-launch: 8 bytes of this log were lost: No space left on device\n"
    assert (tmp_path / "log").read_text() == lost + "three\n"


def test_rotation_continues_after_a_temporary_failure(log, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log.write(b"one two three\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        log.write(b"four\n")
        log.write(b"five\n")
    log.write(b"six\n")
    assert (tmp_path / "log.1").read_text() == "one two three\n"
    assert (tmp_path / "log").read_text().endswith("10 bytes of this log were lost: No space left on device\nsix\n")


@pytest.mark.parametrize("status", [0, 3])
def test_guard_exits_with_the_servers_status_and_records_it(run, tmp_path, status):
    started = run("sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert started.wait() == status
    assert recorded(tmp_path)["status"] == status
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_guard_ends_by_the_servers_signal(run, tmp_path):
    assert run("sh", "-c", "kill -SEGV $$").wait() == -11
    assert recorded(tmp_path)["status"] == -11


def test_guard_records_127_when_the_command_cannot_run(run, tmp_path):
    assert run("/no/such/python").wait() == 127
    assert recorded(tmp_path)["status"] == 127
    assert "/no/such/python cannot be run: No such file or directory" in (tmp_path / "log").read_text()


def test_guard_ends_the_remaining_processes_of_the_group(run):
    started = run("sh", "-c", "trap '' TERM; sleep 600 & exit 1")  # the child ignores the signal too
    assert started.wait() == 1
    assert not group_is_there(started.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_guard_forwards_signals_to_the_server_only(run, tmp_path, number):
    started = run(sys.executable, "-c", FAMILY)
    until(lambda: "up" in read(tmp_path / "log"))
    started.send_signal(number)
    assert started.wait() == 0
    assert (tmp_path / "log").read_text() == f"up\n{number.name} for the server alone\n"


def test_guard_ends_the_server_when_the_program_ends(run, tmp_path):
    started = run("sleep", "600")
    until(lambda: read(tmp_path / "status").strip())
    started.stdin.close()
    started.wait()
    assert recorded(tmp_path).get("abandoned")
    assert not group_is_there(started.pid)


def test_detached_server_keeps_running(run, tmp_path):
    started = run("sh", "-c", "read line < " + str(tmp_path / "fifo") + "; echo $line")
    os.mkfifo(tmp_path / "fifo")
    until(lambda: read(tmp_path / "status").strip())
    started.stdin.write(b"k")
    started.stdin.close()
    (tmp_path / "fifo").write_text("still here\n")
    assert started.wait() == 0
    assert (tmp_path / "log").read_text() == "still here\n"


def test_start_time_is_none_for_an_ended_process():
    with subprocess.Popen(["true"]) as ended:
        until(lambda: guard.start_time(ended.pid) is None)  # it is a zombie now
    assert guard.start_time(ended.pid) is None
    assert guard.start_time(os.getpid()) > 0
