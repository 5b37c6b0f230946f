"""`vllm-launch` with real vLLM servers as processes: the presets of the production models, from `up` to `down`.

The models are tiny, with the architectures of the production models and random weights. They check flags, parsers,
dimensions and windows, but not the text of an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ollama_compat
from testbed import environment, models
from testbed.paths import TestbedError
from testbed.servers import SMALL_MACHINE
from vllm_launch import free_ports
from vllm_launch.presets import CPU, EXAONE, KURE
from vllm_launch.runtimes import groups as process_groups

ROOT = Path(__file__).parents[2]
FAKE_OLLAMA = ROOT / "tests" / "unit" / "launch" / "fake_ollama.py"
SERVICE = Path(__file__).with_name("calling_service.py")
CHAT, EMBED = CPU
TIMEOUT_S = 300.0
"""Limit of a call. It is reached only if a test fails."""
pytestmark = pytest.mark.vllm


class Launcher:
    """The `vllm-launch` command with its own configuration file and state folder."""

    def __init__(self, folder: Path, file: str) -> None:
        (folder / "vllm-launch.toml").write_text(file)
        (folder / "bin").mkdir()
        (folder / "bin" / "ollama").write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE_OLLAMA} "$@"\n')
        (folder / "bin" / "ollama").chmod(0o755)
        self.folder = folder
        self.started = ""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "OLLAMA_"))}
        self.environment = {
            **clean,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "VLLM_LAUNCH_STATE": str(folder / "state"),
            "DOCKER_HOST": f"unix://{folder / 'no-engine.sock'}",  # otherwise `down` also stops containers
            "OLLAMA_HOST": f"http://127.0.0.1:{free_ports(1)[0]}",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run the command. Returns its output; if `status` is not 0, standard error too."""
        command = [sys.executable, "-m", "vllm_launch", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr * bool(status)

    def variables(self) -> dict[str, str]:
        """The environment variables for a service."""
        variables: dict[str, str] = json.loads(self.run("env", "--format", "json"))
        return variables


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Launcher]:
    """A launcher whose two servers are up. They are stopped at the end."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    try:
        python = environment.prepare()
        models.prepare(python, (models.EXAONE4_TINY, models.KURE_TINY))
    except TestbedError as error:
        pytest.fail(f"No real vLLM to test with. {error}", pytrace=False)
    chat_port, embed_port = free_ports(2)
    small = _toml(SMALL_MACHINE)
    # The engine's worker is a separate process here, as on several GPUs: `down` must let the engine stop it.
    with_worker = _toml({**SMALL_MACHINE, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    launcher = Launcher(
        tmp_path_factory.mktemp("launch"),
        f"""
        runtime = "process"
        python = "{python}"
        [servers.{CHAT}]
        model = "{models.path(models.EXAONE4_TINY)}"
        port = {chat_port}
        shutdown_timeout = 600
        kv_cache_memory_bytes = {256 * 2**20}
        enforce_eager = true
        env = {{ {with_worker} }}
        [servers.{EMBED}]
        model = "{models.path(models.KURE_TINY)}"
        served_model_name = ["{KURE}"]
        port = {embed_port}
        kv_cache_memory_bytes = {256 * 2**20}
        enforce_eager = true
        env = {{ {small} }}
        """,
    )
    try:
        launcher.started = launcher.run("up")
        yield launcher
    finally:
        launcher.run("down")


def _toml(variables: dict[str, str]) -> str:
    return ", ".join(f'{name} = "{value}"' for name, value in variables.items())


@pytest.fixture
def client(launcher: Launcher) -> Iterator[ollama_compat.Client]:
    """A client with the settings that `vllm-launch env` prints."""
    settings = {name.lower(): value for name, value in launcher.variables().items()}
    with ollama_compat.Client(**settings, timeout=TIMEOUT_S) as client:
        yield client


def statuses(launcher: Launcher) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(launcher.run("status", "--json"))}


def test_up_waits_until_both_servers_are_ready(launcher: Launcher) -> None:
    for name in CPU:
        assert f"✓ Starting {name}" in launcher.started
    assert {name: row["state"] for name, row in statuses(launcher).items()} == dict.fromkeys(CPU, "ready")


def test_second_up_changes_nothing(launcher: Launcher) -> None:
    before = statuses(launcher)
    assert f"✓ {CHAT} runs as described" in launcher.run("up")
    assert statuses(launcher) == before


def test_up_reports_a_changed_setting(launcher: Launcher) -> None:
    file = launcher.folder / "vllm-launch.toml"
    other = launcher.folder / "other.toml"
    other.write_text(file.read_text().replace("enforce_eager = true", "enforce_eager = false", 1))
    output = launcher.run("--file", str(other), "up", status=1)
    assert f"{CHAT}: enforce_eager is True, described as False" in output
    assert "up --replace" in output


def test_chat_model_thinks_only_if_think_is_set(client: ollama_compat.Client) -> None:
    """The replaced model, EXAONE 3.5, does not think."""
    arguments: dict[str, object] = {
        "messages": [{"role": "user", "content": "안녕하세요"}],
        "options": {"num_predict": 8},
    }
    answer = client.chat("exaone3.5:7.8b", **arguments)  # type: ignore[call-overload]
    assert answer.model == "exaone3.5:7.8b"
    assert answer.message.content
    assert answer.message.thinking is None
    thinking = client.chat("exaone3.5:7.8b", think=True, **arguments)  # type: ignore[call-overload]
    assert thinking.message.thinking


def test_embeddings_have_1024_dimensions_and_length_1(client: ollama_compat.Client) -> None:
    embeddings = client.embed("daynice/kure-v1", ["대한민국의 수도", "서울"]).embeddings
    assert [len(vector) for vector in embeddings] == [1024, 1024]
    assert sum(value * value for value in embeddings[0]) == pytest.approx(1, abs=1e-3)


def test_flags_of_the_preset_are_in_effect(client: ollama_compat.Client) -> None:
    """The window and the tool parser: a server without a parser rejects tools."""
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    messages = [{"role": "user", "content": "What time is it?"}]
    assert client.chat("exaone3.5:7.8b", messages, tools=[tool], options={"num_predict": 4}).done
    shown = client.show("exaone3.5:7.8b")
    assert shown.modelinfo is not None
    assert 8192 in shown.modelinfo.values()


def test_top_and_logs_show_a_server(launcher: Launcher, client: ollama_compat.Client) -> None:
    client.generate("exaone3.5:7.8b", "x", options={"num_predict": 4})
    assert CHAT in launcher.run("top", "--once")
    assert EXAONE in launcher.run("logs", CHAT)
    assert len(launcher.run("logs", CHAT, "-n", "3").splitlines()) == 3


class Service:
    """A service that calls a model repeatedly. At the end of the context it is killed if it still runs."""

    def __init__(self, launcher: Launcher, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVICE), "exaone3.5:7.8b"],
            env={**launcher.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        """The next line that the service prints about an answer."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> None:
        """Stop the service as in production, and check that no call has failed."""
        self._process.send_signal(signal.SIGTERM)
        _, errors = self._process.communicate(timeout=TIMEOUT_S)
        assert self._process.returncode == 0, errors

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def test_rollback_and_return_fail_no_call_of_a_running_service(launcher: Launcher) -> None:
    """The steps of the section on rolling back in docs/launch.md."""
    to_ollama = {"BACKEND_MODE": "ollama", "OLLAMA_HOST": launcher.environment["OLLAMA_HOST"]}
    try:
        with Service(launcher, launcher.variables()) as old:
            assert old.answer().startswith("answered: ")
            assert "  BACKEND_MODE=ollama" in launcher.run("rollback")
            with Service(launcher, to_ollama) as on_ollama:
                assert on_ollama.answer() == "answered: 'Ollama was here.'\n"
                old.end()
                launcher.run("down")
                assert on_ollama.answer() == "answered: 'Ollama was here.'\n"
                launcher.run("up")
                with Service(launcher, launcher.variables()) as returned:
                    assert returned.answer().startswith("answered: ")
                    on_ollama.end()
                    returned.end()
    finally:
        _stop_ollama()


def _stop_ollama() -> None:
    """The fake Ollama outlives the command that started it, as the real one does."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(FAKE_OLLAMA).encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGTERM)


def test_down_completes_an_answer_and_leaves_no_process(launcher: Launcher, client: ollama_compat.Client) -> None:
    groups = [int(str(row["id"])) for row in statuses(launcher).values()]
    assert len(groups) == 2
    stream = client.generate("exaone3.5:7.8b", "x", stream=True, options={"num_predict": 600})
    assert not next(stream).done
    down = threading.Thread(target=launcher.run, args=("down",))
    down.start()
    assert [part.done_reason for part in stream][-1] == "length"
    down.join()
    assert not any(process_groups.runs(group) for group in groups)
    assert launcher.run("status") == "No server is there. `vllm-launch up` starts some.\n"
