"""The way back to Ollama, with a stand-in for `ollama serve`."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml

from vllm_launch import free_ports, rollback
from vllm_launch.cli import main
from vllm_launch.runtimes import LaunchError

# That an Ollama goes on when the program no longer holds its process is what is wanted.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")

FAKE_OLLAMA = Path(__file__).with_name("ollama_stand_in.py")


@pytest.fixture
def url(monkeypatch, tmp_path):
    """Where Ollama is to answer; `ollama` on the path is the stand-in. What was started is stopped after the test."""
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    script = tmp_path / "bin" / "ollama"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\nexec {sys.executable} {FAKE_OLLAMA} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OLLAMA_HOST", address)
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield address
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.fixture
def go(url):
    """`rollback` with `ollama serve`; what it reports is in `.said`."""

    def run(models=("exaone3.5:7.8b",), timeout_s=20.0):
        run.said = []
        return rollback.rollback(models, "process", run.said.append, gpu=False, timeout_s=timeout_s)

    return run


def test_an_ollama_is_started_and_outlives_the_program(url, go):
    way = go()
    assert way == rollback.RollbackResult(url, "0.33.3", started=True, missing=())
    assert way.variables() == {"BACKEND_MODE": "ollama", "OLLAMA_HOST": url}
    assert go.said == [f"No Ollama answers at {url}: one is started"]
    assert httpx.get(f"{url}/api/version").status_code == 200


def test_one_that_answers_is_left_as_it_is(url, go):
    go()
    assert not go().started
    assert go.said == []


def test_models_that_it_lacks(url, go):
    assert go(["EXAONE3.5:7.8b", "daynice/kure-v1"]).missing == ("daynice/kure-v1",)
    said = []
    rollback.pull("daynice/kure-v1:latest", said.append)
    assert said == ["pulling 1 of 2 bytes", "success"]
    assert go(["daynice/kure-v1"]).missing == ()
    with pytest.raises(LaunchError, match="could not fetch nowhere: pull model manifest"):
        rollback.pull("nowhere", said.append)


def test_no_proxy_of_the_environment_comes_between(url, go, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")  # nobody is there
    assert go(["daynice/kure-v1"]).missing == ("daynice/kure-v1",)
    rollback.pull("daynice/kure-v1", lambda _: None)
    assert go(["daynice/kure-v1"]).missing == ()


def test_one_of_another_machine_is_asked_through_the_proxy(url, go, monkeypatch):
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "0.33.3", "models": []}')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OLLAMA_HOST", "http://ollama.invalid:11434")
        assert not go([]).started
        server.shutdown()
    assert asked == [f"http://ollama.invalid:11434/api/{what}" for what in ("version", "tags")]


def test_one_that_dies_says_why(url, go, monkeypatch):
    monkeypatch.setenv("OLLAMA_PLAYS", "dies")
    with pytest.raises(LaunchError, match=r"ended with status 1:\n  Error: listen tcp"):
        go()


def test_no_ollama_on_the_machine(url, go, tmp_path):
    (tmp_path / "bin" / "ollama").unlink()
    with pytest.raises(LaunchError, match="no `ollama` on this machine"):
        go()


def test_one_of_another_machine_is_not_started_from_here(url, go, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "http://ollama.invalid:11434")
    with pytest.raises(LaunchError, match=r"ollama.invalid:11434 \(OLLAMA_HOST\), and it can't be started from here"):
        go()


def test_all_addresses_of_this_machine_are_of_this_machine(url, go, monkeypatch):
    port = httpx.URL(url).port
    monkeypatch.setenv("OLLAMA_HOST", f"0.0.0.0:{port}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert go().started
    assert httpx.get(f"{url}/api/version", trust_env=False).status_code == 200


def test_something_else_at_its_address(url, go):
    port = httpx.URL(url).port
    with http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        with pytest.raises(LaunchError, match="is no Ollama"):
            go()
        answering.join()


def test_the_container_has_the_gpus_that_there_are():
    with_gpus, without = (yaml.safe_load(rollback.compose_file(gpu=gpu)) for gpu in (True, False))
    assert with_gpus["services"]["ollama"]["deploy"]
    assert "deploy" not in without["services"]["ollama"]
    assert without["name"] == "vllm"  # that of docker-compose.yml: the same container, the same models


def test_without_compose_it_says_so(url, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="Docker Compose is not here"):
        rollback.rollback([], "docker", print, gpu=False)


def test_what_the_engine_says_is_told(url, tmp_path):
    docker = tmp_path / "bin" / "docker"
    docker.write_text('#!/bin/sh\n[ "$2" = version ] || { echo "no such image" >&2; exit 1; }\n')
    docker.chmod(0o755)
    with pytest.raises(LaunchError, match=r"could not be started:\n  no such image"):
        rollback.rollback([], "docker", print, gpu=False)


def test_the_command(url, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["rollback", "--runtime", "process"])
    out = capsys.readouterr().out
    assert f"Ollama 0.33.3 answers at {url}." in out
    assert "It does not have daynice/kure-v1." in out
    assert "  BACKEND_MODE=ollama\n" in out
    with pytest.raises(SystemExit, match="0"):
        main(["rollback", "--runtime", "process", "--pull", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "url": url,
        "version": "0.33.3",
        "started": False,
        "missing": [],
        "variables": {"BACKEND_MODE": "ollama", "OLLAMA_HOST": url},
    }


def test_a_started_one_ends_with_a_program_that_is_killed_before_it_answers(url, tmp_path):
    """The pipe that holds it is closed by the program's end."""
    slow = tmp_path / "bin" / "ollama"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program = "from vllm_launch import rollback; rollback.rollback([], 'process', print, gpu=False)"
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, env={**os.environ}) as parent:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert parent.poll() is None
        parent.kill()
    pid = int((tmp_path / "pid").read_text())
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        while True:
            os.kill(pid, 0)
