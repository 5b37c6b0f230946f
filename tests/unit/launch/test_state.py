"""The state folder and its lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.state import exclusive_lock, state_folder

from .fake_server import ROOT

HOLDER = """
import sys
from vllm_launch.runtimes.state import exclusive_lock
with exclusive_lock(print):
    print("alone", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder():
    """Another launcher, which holds the lock until its standard input ends."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"alone\n"
        yield program
        program.kill()


def test_second_launcher_reports_the_holder_and_waits(holder):
    reports = []

    def report(line):
        reports.append(line)
        holder.stdin.close()  # now the first launcher ends

    with exclusive_lock(report):
        assert reports == [f"Waiting for another vllm-launch (process {holder.pid})."]


def test_killed_launcher_releases_the_lock(holder):
    holder.kill()
    holder.wait()
    with exclusive_lock(lambda line: pytest.fail(line)):
        pass


def test_child_process_does_not_hold_the_lock():
    with exclusive_lock(pytest.fail):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive_lock(pytest.fail):
            pass
    finally:
        child.kill()
        child.wait()


def test_lock_raises_when_the_state_folder_cannot_be_created(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(LaunchError, match=r"The lock cannot be written in .*VLLM_LAUNCH_STATE"), exclusive_lock(print):
        pass


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"VLLM_LAUNCH_STATE": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"VLLM_LAUNCH_STATE": "~/a"}, "/home/me/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/vllm-launch"),
        ({"XDG_STATE_HOME": "relative"}, "/home/me/.local/state/vllm-launch"),
        ({}, "/home/me/.local/state/vllm-launch"),
    ],
)
def test_state_folder_follows_the_variables(monkeypatch, variables, folder):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("VLLM_LAUNCH_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(folder)
