"""`vllm-launch`: the output and the exit status of each command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.unit.launch.fake_runtime import FakeRuntime
from vllm_launch import ready, rollback, up
from vllm_launch.cli import app as cli_app
from vllm_launch.cli import main
from vllm_launch.presets import PRESETS

FILE = """
runtime = "process"
[servers.chat]
model = "org/chat"
port = 8001
[servers.embed]
model = "org/embed"
port = 8002
"""


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    fake = FakeRuntime()
    monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-launch.toml").write_text(FILE)
    monkeypatch.setattr(ready, "ask", fake.ask)
    monkeypatch.setattr(up, "_POLL_S", 0)
    monkeypatch.setattr(cli_app, "open_runtime", lambda *_: fake)
    monkeypatch.setattr(cli_app, "available_runtimes", lambda _: [fake])
    return fake


def test_up_starts_what_the_file_describes(runtime, run):
    status, out, _ = run("up")
    assert (status, runtime.did("start")) == (0, ["chat", "embed"])
    assert "✓ Starting chat" in out
    assert 'eval "$(vllm-launch env)"' in out


def test_second_up_changes_nothing(runtime, run):
    run("up")
    runtime.done.clear()
    status, out, _ = run("up")
    assert (status, runtime.done) == (0, [])
    assert "✓ chat runs as described" in out


def test_up_json_prints_only_json(runtime, run):
    status, out, _ = run("up", "chat", "--json")
    assert status == 0
    assert [(row["name"], row["state"], row["url"]) for row in json.loads(out)] == [
        ("chat", "ready", "http://127.0.0.1:8001")
    ]


@pytest.mark.parametrize(
    ("line", "warns"),
    [
        ('host = "0.0.0.0"', True),
        ('host = "::"', True),
        ('host = "0.0.0.0"\napi_key_file = "key"', False),
        ('host = "127.0.0.2"', False),
        ("", False),
    ],
)
def test_up_warns_of_an_exposed_server_without_a_key(runtime, run, tmp_path, line, warns):
    (tmp_path / "vllm-launch.toml").write_text(f'[servers.chat]\nmodel = "org/chat"\nport = 8001\n{line}\n')
    status, _, err = run("up")
    assert status == 0
    assert ("requires no key: any client that reaches this machine can use it" in err) is warns


def test_up_fails_when_a_server_exits(runtime, run):
    runtime.plays = {"chat": ["exited"]}
    status, out, err = run("up", "chat")
    assert status == 1
    assert "✗ Starting chat" in out
    assert "vllm-launch: The vLLM server 'chat' ended while it was starting, with status 1." in err


def test_up_exits_with_130_on_ctrl_c(runtime, run):
    runtime.plays = {"chat": ["interrupt"]}
    status, _, err = run("up", "chat")
    assert status == 130
    assert "servers that were still starting have been stopped" in err
    assert runtime.did("stop") == ["chat"]


def test_up_suggests_the_nearest_name_for_an_unknown_one(runtime, run):
    status, _, err = run("up", "caht")
    assert status == 1
    assert "There is no server 'caht'; did you mean 'chat'?" in err


def test_up_starts_the_presets_without_a_file(runtime, run, tmp_path, monkeypatch):
    (tmp_path / "vllm-launch.toml").unlink()
    monkeypatch.setattr(cli_app, "has_gpu", lambda: False)
    run("up")
    assert runtime.did("start") == ["vllm-llm-cpu", "vllm-embed-cpu"]
    monkeypatch.setattr(cli_app, "has_gpu", lambda: True)
    run("down")
    runtime.done.clear()
    run("up")
    assert runtime.did("start") == ["vllm-embed", "vllm-llm"]  # the smaller server starts first on a shared GPU


def test_unknown_runtime_is_a_usage_error(runtime, run):
    status, _, err = run("up", "--runtime", "podman")
    assert status == 2
    assert "it must be 'docker' or 'process'" in err


def test_down_stops_running_servers(runtime, run):
    run("up")
    status, out, _ = run("down")
    assert (status, out) == (0, "Stopping chat\nStopping embed\n")
    assert run("down")[:2] == (0, "No server is running.\n")


def test_down_fails_for_a_server_that_does_not_exist(runtime, run):
    run("up", "chat")
    status, _, err = run("down", "chat", "embed")
    assert (status, runtime.did("stop")) == (1, ["chat"])
    assert "There is no server embed;" in err


def test_status_lists_servers_and_fails_when_one_is_not_ready(runtime, run):
    assert run("status")[:2] == (0, "No server is there. `vllm-launch up` starts some.\n")
    run("up")
    status, out, _ = run("status")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["chat", "ready", "http://127.0.0.1:8001"],
        ["embed", "ready", "http://127.0.0.1:8002"],
    ]
    runtime.plays = {"embed": ["exited"]}
    runtime.logs = {"embed": "ValueError: No such weights"}
    status, out, _ = run("status")
    assert status == 1
    assert "embed: ended with status 1. Cause: " in out
    assert "ValueError: No such weights" in out


def test_status_json_contains_the_state(runtime, run):
    runtime.plays = {"chat": ["ready", "loading"]}
    run("up", "chat")
    status, out, _ = run("status", "--json")
    [row] = json.loads(out)
    assert (status, row["state"], row["models"], row["runtime"]) == (1, "starting", ["org/chat"], "process")


def test_logs_label_lines_of_several_servers(runtime, run):
    run("up")
    runtime.logs = {"chat": "one\ntwo\n", "embed": "three\n"}
    assert run("logs", "chat")[:2] == (0, "one\ntwo\n")
    assert run("logs")[1] == "chat  | one\nchat  | two\nembed | three\n"
    assert sorted(run("logs", "-f")[1].splitlines()) == ["chat  | one", "chat  | two", "embed | three"]
    assert run("logs", "unknown")[0] == 1


def test_logs_end_silently_when_the_reader_closes_the_pipe(runtime, run, monkeypatch, capsys):
    run("up")
    runtime.logs = {"chat": "a line\n" * 100, "embed": ""}
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, open(writing, "w") as unread:
        patch.setattr(sys, "stdout", unread)
        with pytest.raises(SystemExit, match="1"):
            main(["logs", "--follow"])
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), writing)  # for the rest of the buffer
    assert capsys.readouterr().err == ""


def test_negative_number_of_log_lines_is_a_usage_error(runtime, run):
    status, _, err = run("logs", "-n", "-1")
    assert status == 2
    assert "Invalid value for '--lines'" in err


@pytest.mark.parametrize(
    ("into", "status", "error"),
    [
        (">&-", 0, ""),
        (">/dev/full", 1, "vllm-launch: The output cannot be read or written: No space left on device.\n"),
    ],
)
def test_unwritable_output_causes_a_message_without_traceback(tmp_path, into, status, error):
    command = f"{sys.executable} -m vllm_launch plan --gpu H100 {into}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, error)


def test_env_prints_running_or_named_servers(runtime, run):
    assert run("env")[0] == 1
    run("up", "chat")
    runtime.has(PRESETS["vllm-embed"], "exited")
    assert "export VLLM_URLS=http://127.0.0.1:8001\n" in run("env")[1]
    out = run("env", "vllm-llm", "vllm-embed", "--format", "json")[1]
    assert json.loads(out)["VLLM_URLS"] == "http://127.0.0.1:8001,http://127.0.0.1:8002"
    assert set(json.loads(json.loads(out)["VLLM_MODEL_MAP"]).values()) == {
        PRESETS["vllm-llm"].model,
        PRESETS["vllm-embed"].model,
    }
    assert run("env", "--format", "yaml")[0] == 2


@pytest.mark.parametrize("command", ["env", "rollback"])
def test_invalid_service_settings_cause_a_message(runtime, run, monkeypatch, command):
    run("up", "chat")
    monkeypatch.setenv("VLLM_MODEL_MAP", "no JSON")
    status, _, err = run(command)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("vllm-launch: The settings of the service: VLLM_MODEL_MAP")


@pytest.mark.parametrize("command", [["status"], ["logs"], ["env"], ["top", "chat", "--once"], ["down"]])
def test_invalid_file_is_ignored_by_commands_on_running_servers(runtime, run, tmp_path, command):
    run("up", "chat")
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    status, _, err = run(*command)
    assert status == 0
    assert err.startswith("vllm-launch: vllm-launch.toml is not valid TOML: ")
    assert err.endswith("This command continues without the file.\n")


def test_invalid_file_is_ignored_by_rollback(runtime, run, tmp_path, monkeypatch):
    chosen = []

    def fake_rollback(models, runtime, *_, **__):
        chosen.append(runtime)
        return rollback.RollbackResult("http://127.0.0.1:11434", "0.33", started=False, missing=())

    monkeypatch.setattr(rollback, "rollback", fake_rollback)
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    status, out, err = run("rollback")
    assert (status, chosen, "BACKEND_MODE=ollama" in out) == (0, ["docker"], True)
    assert err.endswith("This command continues without the file.\n")


def test_invalid_file_is_an_error_for_commands_that_need_it(runtime, run, tmp_path):
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    for command in (["up"], ["plan", "--gpu", "H100"], ["compose"], ["env", "chat"], ["top", "chat", "--once"]):
        status, _, err = run(*command)
        assert (status, "is not valid TOML" in err) == (1, True)
    assert run("--help")[0] == 0
    assert run("top", "--url", "http://127.0.0.1:1", "--once")[::2] == (0, "")


def test_check_prints_the_verdict_of_each_server(runtime, run, monkeypatch):
    from vllm_launch import arguments
    from vllm_launch.arguments import Verdict

    verdicts = [Verdict("chat", False, "unknown flag"), Verdict("embed", None, "not checked")]
    monkeypatch.setattr(arguments, "check_all", lambda *_: verdicts)
    assert run("check")[:2] == (1, "chat: unknown flag\nembed: not checked\n")
    verdicts.pop(0)
    assert run("check")[:2] == (0, "embed: not checked\n")


def test_compose_prints_one_file_or_writes_all(runtime, run, tmp_path):
    status, out, _ = run("compose", "vllm-llm", "vllm-embed")
    assert status == 0
    assert "  vllm-embed:\n" in out
    status, out, _ = run("compose", "vllm-llm", "--output", str(tmp_path / "stack"))
    assert status == 0
    assert (tmp_path / "stack" / "docker-compose.yml").exists()
    assert str(tmp_path / "stack" / ".env.example") in out.splitlines()
    (tmp_path / "file").touch()
    status, _, err = run("compose", "vllm-llm", "-o", str(tmp_path / "file"))
    assert (status, "cannot be written" in err) == (1, True)


def test_module_runs_the_command(tmp_path):
    command = [sys.executable, "-m", "vllm_launch", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("up", "down", "status", "logs", "env", "check"):
        assert f"  {name} " in done.stdout


def test_missing_package_is_named(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from vllm_launch.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "vllm-launch needs typer: pip install 'ollama-compat[launch]'\n")
