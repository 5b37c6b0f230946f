"""`vllm_launch` with a stand-in for vLLM: a package `vllm` of a few lines, whose model name says how it behaves."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from vllm_launch import Server, ServerError, ServerProcess, free_ports, log, running

STAND_IN = """
import argparse, http.server, os, signal, subprocess, sys, time

parser = argparse.ArgumentParser()
for flag in ("--host", "--model"):
    parser.add_argument(flag)
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name", nargs="*")
arguments = parser.parse_args()
model = arguments.model

if model == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
# The engine core: a process of its own, which inherits what its parent ignores.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("(APIServer pid=1) INFO 01-31 12:00:00 [api_utils.py:347]  █▄ banner", flush=True)
print("(EngineCore pid=2) INFO 01-31 12:00:01 [core.py:1] Loading weights took 0.2 seconds", flush=True)
print("(APIServer pid=1) INFO 01-31 12:00:01 [launcher.py:1] Route: /health, Methods: GET", flush=True)
if model == "broken":
    print("(EngineCore pid=2) ERROR 01-31 12:00:02 [core.py:9] ValueError: No such weights", flush=True)
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
if model == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if model == "slow":
    time.sleep(600)


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = "key=" + os.environ.get("VLLM_API_KEY", "none")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())


http.server.HTTPServer((arguments.host, arguments.port), Health).serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    """Makes a server of the stand-in."""
    package = tmp_path / "stand-in" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(textwrap.dedent(STAND_IN))

    def make(model="fine", name="chat", port=None, **env):
        [free] = free_ports(1)
        return Server(name=name, model=model, port=port or free, env={"PYTHONPATH": str(tmp_path / "stand-in"), **env})

    return make


@pytest.fixture
def launch(tmp_path):
    """`running`, with this Python and a log folder."""

    def run(*servers, **kwargs):
        return running(servers, **{"python": sys.executable, "log_dir": tmp_path / "logs", **kwargs})

    return run


@pytest.fixture
def process(server, tmp_path):
    """Makes a process that is stopped after the test."""
    with contextlib.ExitStack() as stack:

        def make(model):
            made = ServerProcess(server(model), python=sys.executable, log_dir=tmp_path)
            stack.callback(made.stop, grace=0)
            return made

        yield make


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command():
    server = Server(name="chat", model="org/model", port=8001, served_model_name=("a", "b"), dtype="float32")
    assert server.command("python3") == [
        *("python3", "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", "8001"),
        *("--model", "org/model", "--served-model-name", "a", "b", "--dtype", "float32"),
    ]
    assert server.base_url == "http://127.0.0.1:8001"


def test_servers_run_side_by_side_and_leave_nothing(server, launch):
    seen = []
    with launch(server(name="chat"), server(name="embed"), on_progress=seen.append) as processes:
        assert [httpx.get(process.url).status_code for process in processes] == [200, 200]
        assert all(process.group_runs() for process in processes)
    assert not any(process.group_runs() for process in processes)
    assert {progress.server.name for progress in seen if progress.ready} == {"chat", "embed"}


def test_the_clients_variables_are_not_the_servers(server, launch, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "the client's")
    with launch(server()) as [process]:
        assert httpx.get(process.url).text == "key=none"
    (tmp_path / "key").write_text("its own\n")
    with launch(server().model_copy(update={"api_key_file": tmp_path / "key"})) as [process]:
        assert httpx.get(process.url).text == "key=its own"


def test_a_server_that_ends_early_says_why(server, launch, tmp_path):
    with pytest.raises(ServerError) as caught, launch(server("broken")):
        pass
    message = str(caught.value)
    assert "'chat' ended while it was starting, with status 1" in message
    assert "Cause: ValueError: No such weights" in message
    assert str(tmp_path / "logs" / "chat.log") in message


def test_a_killed_server_is_told_from_a_failed_one(server, launch):
    with pytest.raises(ServerError, match="by SIGKILL, as when memory runs out"), launch(server("killed")):
        pass


def test_one_that_fails_takes_the_others_down(server, launch):
    seen = []
    with pytest.raises(ServerError), launch(server("slow"), server("broken", "other"), on_progress=seen.append):
        pass
    assert {progress.server.name for progress in seen} >= {"chat"}


def test_a_server_that_is_never_ready(server, launch):
    with pytest.raises(ServerError, match="was not ready after 1 seconds"), launch(server("slow"), timeout=1):
        pass


def test_a_server_that_does_not_listen_to_reason_is_killed(process):
    stubborn = process("stubborn")
    stubborn.start()
    stubborn.wait_ready(timeout=20)
    stubborn.stop(grace=0.5)
    assert not stubborn.group_runs()


def test_stopping_twice_and_starting_twice(process):
    fine = process("fine")
    fine.stop()
    fine.start()
    with pytest.raises(ServerError, match="started already"):
        fine.start()
    fine.stop()
    fine.stop()
    assert not fine.running


def test_a_taken_port_is_an_error_before_the_start(server, launch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerError, match=f"Port {port}, wanted for the vLLM server 'chat'"),
            launch(server(port=port)),
        ):
            pass


@pytest.mark.parametrize(("names", "what"), [(("a", "a"), "name: a"), (("a", "b"), "port: 8001")])
def test_servers_must_differ(launch, names, what):
    ports = (8001, 8002) if names[0] == names[1] else (8001, 8001)
    servers = [Server(name=name, model="model", port=port) for name, port in zip(names, ports, strict=True)]
    with pytest.raises(ServerError, match=f"same {what}"), launch(*servers):
        pass


def test_a_python_that_is_not_there(server, launch):
    with pytest.raises(ServerError, match="There is no Python '/no/python'"), launch(server(), python="/no/python"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_that_is_killed_takes_its_servers_along(server, tmp_path, how):
    wanted = server("stubborn")
    program = f"""
        import sys, time
        from pathlib import Path
        from vllm_launch import Server, running
        with running([{wanted!r}], python=sys.executable, log_dir=Path({str(tmp_path)!r})) as [process]:
            print(process.pid, flush=True)
            time.sleep(600)
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=root, stdout=subprocess.PIPE) as parent:
        group = int(parent.stdout.readline())
        parent.send_signal(how)
    until(lambda: not group_is_there(group))


def group_is_there(group):
    """Whether any process of the group is there that is more than a record of its end."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if of_group == str(group) and state != "Z":
                return True
    return False


def test_a_server_is_stopped_at_the_end_of_the_program(server, tmp_path):
    program = f"""
        import sys
        from pathlib import Path
        from vllm_launch import Server, ServerProcess
        process = ServerProcess({server()!r}, python=sys.executable, log_dir=Path({str(tmp_path)!r}))
        process.start()
        process.wait_ready()
        print(process.pid)
    """
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=root, capture_output=True, check=True)
    assert not group_is_there(int(ended.stdout))


def test_what_a_log_tells(tmp_path):
    written = tmp_path / "server.log"
    assert (log.tail(written), log.activity(written), log.cause(written)) == ([], "", "")
    written.write_text(
        "(APIServer pid=1) INFO 01-31 12:00:00 [core.py:1] Initializing a V1 LLM engine (v1) with config: model='x'\n"
        "(APIServer pid=1) WARNING 01-31 12:00:00 [core.py:1] Something else\n"
        "(Worker pid=1) pydantic.ValidationError: 1 validation error\n"
        "(Worker pid=1)   Value error, too long\n"
        "RuntimeError: Engine core initialization failed.\n"
    )
    assert log.activity(written) == "Initializing a V1 LLM engine (v1)"
    assert log.cause(written) == "pydantic.ValidationError: 1 validation error: Value error, too long"


def test_free_ports_differ():
    assert len(set(free_ports(5))) == 5
