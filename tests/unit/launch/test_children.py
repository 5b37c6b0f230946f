"""Servers as child processes: they start concurrently and stop completely, however the program ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import textwrap

import httpx
import pytest

from vllm_launch import Server, ServerError, ServerProcess, running

from .fake_server import ROOT, group_is_there, until


@pytest.fixture
def server(fake_server):
    return fake_server


@pytest.fixture
def launch(tmp_path):
    """`running`, with this Python and a log folder."""

    def run(*servers, **kwargs):
        return running(servers, **{"python": sys.executable, "log_dir": tmp_path / "logs", **kwargs})

    return run


@pytest.fixture
def process(server, tmp_path):
    """Creates processes that are stopped after the test."""
    with contextlib.ExitStack() as stack:

        def make(model):
            made = ServerProcess(server(model), python=sys.executable, log_dir=tmp_path)
            stack.callback(made.stop, grace=0)
            return made

        yield make


def test_running_starts_servers_concurrently_and_leaves_no_process(server, launch):
    seen = []
    with launch(server(name="chat"), server(name="embed"), on_progress=seen.append) as processes:
        assert [httpx.get(process.url).status_code for process in processes] == [200, 200]
        assert all(process.group_runs() for process in processes)
    assert not any(process.group_runs() for process in processes)
    assert {progress.server.name for progress in seen if progress.ready} == {"chat", "embed"}


def test_server_does_not_inherit_client_variables(server, launch, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "the client's")
    with launch(server()) as [process]:
        assert httpx.get(process.url).text == "key=none"
    (tmp_path / "key").write_text("its-own\n")
    with launch(server().model_copy(update={"api_key_file": tmp_path / "key"})) as [process]:
        assert httpx.get(process.url).text == "key=its-own"


def test_start_error_contains_the_cause_when_the_server_exits(server, launch, tmp_path):
    with pytest.raises(ServerError) as caught, launch(server("broken")):
        pass
    message = str(caught.value)
    assert "'chat' ended while it was starting, with status 1" in message
    assert "Cause: ValueError: No such weights" in message
    assert str(tmp_path / "logs" / "chat.log") in message


def test_start_error_names_the_signal_when_the_server_is_killed(server, launch):
    with pytest.raises(ServerError, match="by SIGKILL, as when memory runs out"), launch(server("killed")):
        pass


def test_running_stops_all_servers_when_one_fails(server, launch):
    seen = []
    slow, broken = server("slow"), server("broken", "other")
    with pytest.raises(ServerError, match="'other' ended"), launch(slow, broken, on_progress=seen.append):
        pass
    assert {progress.server.name for progress in seen} >= {"chat"}


def test_wait_ready_raises_after_the_timeout(server, launch):
    with pytest.raises(ServerError, match="was not ready after 1 seconds"), launch(server("slow"), timeout=1):
        pass


def test_stop_kills_a_server_that_ignores_sigterm(process):
    stubborn = process("stubborn")
    stubborn.start()
    stubborn.wait_ready(timeout=20)
    stubborn.stop(grace=0.5)
    assert not stubborn.group_runs()


def test_stop_is_idempotent_and_start_is_not(process):
    fine = process("fine")
    fine.stop()
    fine.start()
    with pytest.raises(ServerError, match="started already"):
        fine.start()
    fine.stop()
    fine.stop()
    assert not fine.running


def test_start_raises_when_the_port_is_in_use(server, launch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerError, match=f"Port {port} of the vLLM server 'chat'"),
            launch(server(port=port)),
        ):
            pass


@pytest.mark.parametrize(("names", "what"), [(("a", "a"), "name: a"), (("a", "b"), "port: 8001")])
def test_running_raises_for_duplicate_names_and_ports(launch, names, what):
    ports = (8001, 8002) if names[0] == names[1] else (8001, 8001)
    servers = [Server(name=name, model="model", port=port) for name, port in zip(names, ports, strict=True)]
    with pytest.raises(ServerError, match=f"same {what}"), launch(*servers):
        pass


def test_start_raises_when_python_does_not_exist(server, launch):
    with pytest.raises(ServerError, match="There is no Python '/no/python'"), launch(server(), python="/no/python"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_when_the_program_is_killed(server, tmp_path, how):
    wanted = server("stubborn")
    program = f"""
        import sys, time
        from pathlib import Path
        from vllm_launch import Server, running
        with running([{wanted!r}], python=sys.executable, log_dir=Path({str(tmp_path)!r})) as [process]:
            print(process.pid, flush=True)
            time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        group = int(parent.stdout.readline())
        parent.send_signal(how)
    until(lambda: not group_is_there(group))


def test_servers_end_when_the_program_exits(server, tmp_path):
    program = f"""
        import sys
        from pathlib import Path
        from vllm_launch import Server, ServerProcess
        process = ServerProcess({server()!r}, python=sys.executable, log_dir=Path({str(tmp_path)!r}))
        process.start()
        process.wait_ready()
        print(process.pid)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, check=True)
    assert not group_is_there(int(ended.stdout))
