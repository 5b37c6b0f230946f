"""The state folder, and that one launcher works at a time."""

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
    """Another launcher, at work until its standard input ends."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"alone\n"
        yield program
        program.kill()


def test_the_second_launcher_says_whom_it_waits_for_and_goes_on(holder):
    told = []

    def report(line):
        told.append(line)
        holder.stdin.close()  # only now the first one ends

    with exclusive_lock(report):
        assert told == [f"Waiting for another vllm-launch (process {holder.pid})."]


def test_a_killed_launcher_leaves_no_lock(holder):
    holder.kill()
    holder.wait()
    with exclusive_lock(lambda line: pytest.fail(line)):
        pass


def test_what_a_launcher_starts_does_not_hold_its_lock():
    with exclusive_lock(pytest.fail):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive_lock(pytest.fail):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_state_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(LaunchError, match=r"The lock can't be written in .*VLLM_LAUNCH_STATE"), exclusive_lock(print):
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
def test_where_it_is(monkeypatch, variables, folder):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("VLLM_LAUNCH_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(folder)
