"""The rollback to Ollama, with a fake `ollama serve`."""

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

# Ollama keeps running after the program has released its process. That is intended.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")

FAKE_OLLAMA = Path(__file__).with_name("fake_ollama.py")


@pytest.fixture
def url(monkeypatch, tmp_path):
    """The URL of Ollama. The fake `ollama` is on the PATH. It is stopped after the test."""
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
    """`rollback` with `ollama serve`. Its reports are in `.reports`."""

    def run(models=("exaone3.5:7.8b",), timeout_s=20.0):
        run.reports = []
        return rollback.rollback(models, "process", run.reports.append, gpu=False, timeout_s=timeout_s)

    return run


def test_rollback_starts_ollama_which_outlives_the_program(url, go):
    result = go()
    assert result == rollback.RollbackResult(url, "0.33.3", started=True, missing=())
    assert result.variables() == {"BACKEND_MODE": "ollama", "OLLAMA_HOST": url}
    assert go.reports == [f"No Ollama server answers at {url}; starting one"]
    assert httpx.get(f"{url}/api/version").status_code == 200


def test_rollback_uses_a_running_ollama(url, go):
    go()
    assert not go().started
    assert go.reports == []


def test_rollback_lists_missing_models(url, go):
    assert go(["EXAONE3.5:7.8b", "daynice/kure-v1"]).missing == ("daynice/kure-v1",)
    reports = []
    rollback.pull("daynice/kure-v1:latest", reports.append)
    assert reports == ["pulling 1 of 2 bytes", "success"]
    assert go(["daynice/kure-v1"]).missing == ()
    with pytest.raises(LaunchError, match="could not pull nowhere: pull model manifest"):
        rollback.pull("nowhere", reports.append)


def test_proxy_is_ignored_for_this_machine(url, go, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")  # no proxy listens there
    assert go(["daynice/kure-v1"]).missing == ("daynice/kure-v1",)
    rollback.pull("daynice/kure-v1", lambda _: None)
    assert go(["daynice/kure-v1"]).missing == ()


def test_proxy_is_used_for_another_machine(url, go, monkeypatch):
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


def test_error_contains_the_log_when_ollama_exits(url, go, monkeypatch):
    monkeypatch.setenv("OLLAMA_PLAYS", "dies")
    with pytest.raises(LaunchError, match=r"ended with status 1:\n  Error: listen tcp"):
        go()


def test_rollback_raises_when_ollama_is_not_installed(url, go, tmp_path):
    (tmp_path / "bin" / "ollama").unlink()
    with pytest.raises(LaunchError, match="`ollama` is not installed on this machine"):
        go()


def test_rollback_raises_for_another_machine(url, go, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "http://ollama.invalid:11434")
    with pytest.raises(LaunchError, match=r"ollama.invalid:11434 \(OLLAMA_HOST\), which is on another machine"):
        go()


def test_all_addresses_of_this_machine_are_local(url, go, monkeypatch):
    port = httpx.URL(url).port
    monkeypatch.setenv("OLLAMA_HOST", f"0.0.0.0:{port}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert go().started
    assert httpx.get(f"{url}/api/version", trust_env=False).status_code == 200


def test_rollback_raises_when_another_server_answers(url, go):
    port = httpx.URL(url).port
    with http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        with pytest.raises(LaunchError, match="is not Ollama"):
            go()
        answering.join()


def test_compose_file_has_gpus_only_if_the_machine_has_them():
    with_gpus, without = (yaml.safe_load(rollback.compose_file(gpu=gpu)) for gpu in (True, False))
    assert with_gpus["services"]["ollama"]["deploy"]
    assert "deploy" not in without["services"]["ollama"]
    assert without["name"] == "vllm"  # the project of docker-compose.yml: the same container and models


def test_rollback_raises_without_compose(url, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="Docker Compose is not installed"):
        rollback.rollback([], "docker", print, gpu=False)


def test_rollback_error_quotes_the_engine(url, tmp_path):
    docker = tmp_path / "bin" / "docker"
    docker.write_text('#!/bin/sh\n[ "$2" = version ] || { echo "no such image" >&2; exit 1; }\n')
    docker.chmod(0o755)
    with pytest.raises(LaunchError, match=r"could not be started:\n  no such image"):
        rollback.rollback([], "docker", print, gpu=False)


def test_rollback_command_prints_the_variables(url, capsys):
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


def test_started_ollama_ends_with_a_program_killed_before_the_answer(url, tmp_path):
    """The end of the program closes the pipe of the guard."""
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
