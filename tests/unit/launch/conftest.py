"""Shared fixtures of the launcher's tests: a state folder for each test, servers without vLLM, and the command line."""

from __future__ import annotations

import textwrap

import pytest

from vllm_launch import Server, free_ports
from vllm_launch.cli import main

from .fake_server import FAKE_SERVER


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The launcher's state folder."""
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def fake_server(tmp_path):
    """Creates servers of the fake vLLM."""
    package = tmp_path / "fake" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(textwrap.dedent(FAKE_SERVER))

    def make(model="fine", name="chat", port=None, **env):
        [free] = free_ports(1)
        return Server(name=name, model=model, port=port or free, env={"PYTHONPATH": str(tmp_path / "fake"), **env})

    return make


@pytest.fixture
def run(capsys):
    """Runs a command line. Returns the exit status, standard output and standard error."""

    def command(*arguments):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return command
