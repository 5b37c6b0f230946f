"""`vllm-launch`: what each command prints, and its exit status."""

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


@pytest.fixture
def run(capsys):
    """Runs a command line; the exit status, what it printed, and what it said of errors."""

    def command(*arguments):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def test_up_starts_what_the_file_describes(runtime, run):
    status, out, _ = run("up")
    assert (status, runtime.did("start")) == (0, ["chat", "embed"])
    assert "✓ Starting chat" in out
    assert 'eval "$(vllm-launch env)"' in out


def test_up_again_changes_nothing(runtime, run):
    run("up")
    runtime.done.clear()
    status, out, _ = run("up")
    assert (status, runtime.done) == (0, [])
    assert "✓ chat runs as described" in out


def test_up_as_json_prints_nothing_else(runtime, run):
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
def test_up_warns_of_a_server_that_everybody_may_use(runtime, run, tmp_path, line, warns):
    (tmp_path / "vllm-launch.toml").write_text(f'[servers.chat]\nmodel = "org/chat"\nport = 8001\n{line}\n')
    status, _, err = run("up")
    assert status == 0
    assert ("asks for no key: whoever reaches this machine may use it" in err) is warns


def test_a_server_that_dies_makes_the_command_fail(runtime, run):
    runtime.plays = {"chat": ["exited"]}
    status, out, err = run("up", "chat")
    assert status == 1
    assert "✗ Starting chat" in out
    assert "vllm-launch: The vLLM server 'chat' ended while it was starting, with status 1." in err


def test_ctrl_c_is_a_message_and_status_130(runtime, run):
    runtime.plays = {"chat": ["interrupt"]}
    status, _, err = run("up", "chat")
    assert status == 130
    assert "what was still starting has been stopped too" in err
    assert runtime.did("stop") == ["chat"]


def test_an_unknown_name_is_told_with_the_nearest_known_one(runtime, run):
    status, _, err = run("up", "caht")
    assert status == 1
    assert "There is no server 'caht'; did you mean 'chat'?" in err


def test_presets_where_there_is_no_file(runtime, run, tmp_path, monkeypatch):
    (tmp_path / "vllm-launch.toml").unlink()
    monkeypatch.setattr(cli_app, "has_gpu", lambda: False)
    run("up")
    assert runtime.did("start") == ["vllm-llm-cpu", "vllm-embed-cpu"]
    monkeypatch.setattr(cli_app, "has_gpu", lambda: True)
    run("down")
    runtime.done.clear()
    run("up")
    assert runtime.did("start") == ["vllm-embed", "vllm-llm"]  # one GPU: the small one first


def test_a_wrong_runtime_is_a_wrong_command_line(runtime, run):
    status, _, err = run("up", "--runtime", "podman")
    assert status == 2
    assert "it may be 'docker' or 'process'" in err


def test_down_stops_what_runs(runtime, run):
    run("up")
    status, out, _ = run("down")
    assert (status, out) == (0, "Stopping chat\nStopping embed\n")
    assert run("down")[:2] == (0, "No server is there to stop.\n")


def test_down_of_one_that_is_not_there(runtime, run):
    run("up", "chat")
    status, _, err = run("down", "chat", "embed")
    assert (status, runtime.did("stop")) == (1, ["chat"])
    assert "There is no embed to stop" in err


def test_status_lists_servers_and_fails_where_one_is_not_ready(runtime, run):
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


def test_status_as_json(runtime, run):
    runtime.plays = {"chat": ["ready", "loading"]}
    run("up", "chat")
    status, out, _ = run("status", "--json")
    [row] = json.loads(out)
    assert (status, row["state"], row["models"], row["runtime"]) == (1, "starting", ["org/chat"], "process")


def test_logs_of_one_and_of_several(runtime, run):
    run("up")
    runtime.logs = {"chat": "one\ntwo\n", "embed": "three\n"}
    assert run("logs", "chat")[:2] == (0, "one\ntwo\n")
    assert run("logs")[1] == "chat  | one\nchat  | two\nembed | three\n"
    assert sorted(run("logs", "-f")[1].splitlines()) == ["chat  | one", "chat  | two", "embed | three"]
    assert run("logs", "nobody")[0] == 1


def test_logs_end_without_a_word_when_nobody_reads_them_any_more(runtime, run, monkeypatch, capsys):
    run("up")
    runtime.logs = {"chat": "a line\n" * 100, "embed": ""}
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, open(writing, "w") as nobody_reads:
        patch.setattr(sys, "stdout", nobody_reads)
        with pytest.raises(SystemExit, match="1"):
            main(["logs", "--follow"])
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), writing)  # for what is left in the buffer
    assert capsys.readouterr().err == ""


def test_logs_of_fewer_than_no_lines_are_a_wrong_command_line(runtime, run):
    status, _, err = run("logs", "-n", "-1")
    assert status == 2
    assert "Invalid value for '--lines'" in err


@pytest.mark.parametrize(
    ("into", "status", "said"),
    [
        (">&-", 0, ""),
        (">/dev/full", 1, "vllm-launch: What is printed can't be written or read: No space left on device.\n"),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(tmp_path, into, status, said):
    command = f"{sys.executable} -m vllm_launch plan --gpu H100 {into}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)


def test_env_of_what_runs_and_of_what_is_named(runtime, run):
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
def test_settings_of_the_service_that_cannot_be_read_are_a_message(runtime, run, monkeypatch, command):
    run("up", "chat")
    monkeypatch.setenv("VLLM_MODEL_MAP", "no JSON")
    status, _, err = run(command)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("vllm-launch: The settings of the service: VLLM_MODEL_MAP")


@pytest.mark.parametrize("command", [["status"], ["logs"], ["env"], ["top", "chat", "--once"], ["down"]])
def test_a_broken_file_keeps_nobody_from_what_runs(runtime, run, tmp_path, command):
    run("up", "chat")
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    status, _, err = run(*command)
    assert status == 0
    assert err.startswith("vllm-launch: vllm-launch.toml is no valid TOML: ")
    assert err.endswith("This command goes on without that file.\n")


def test_a_broken_file_keeps_nobody_from_going_back(runtime, run, tmp_path, monkeypatch):
    asked = []

    def back(models, where, *_, **__):
        asked.append(where)
        return rollback.RollbackResult("http://127.0.0.1:11434", "0.33", started=False, missing=())

    monkeypatch.setattr(rollback, "rollback", back)
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    status, out, err = run("rollback")
    assert (status, asked, "BACKEND_MODE=ollama" in out) == (0, ["docker"], True)
    assert err.endswith("This command goes on without that file.\n")


def test_a_broken_file_is_an_error_where_it_is_needed(runtime, run, tmp_path):
    (tmp_path / "vllm-launch.toml").write_text("[servers.chat\n")
    for command in (["up"], ["plan", "--gpu", "H100"], ["compose"], ["env", "chat"], ["top", "chat", "--once"]):
        status, _, err = run(*command)
        assert (status, "is no valid TOML" in err) == (1, True)
    assert run("--help")[0] == 0
    assert run("top", "--url", "http://127.0.0.1:1", "--once")[::2] == (0, "")


def test_check_tells_what_vllm_says_of_each(runtime, run, monkeypatch):
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
    assert (status, "can't be written" in err) == (1, True)


def test_the_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "vllm_launch", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("up", "down", "status", "logs", "env", "check"):
        assert f"  {name} " in done.stdout


def test_what_is_missing_is_named(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from vllm_launch.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "vllm-launch needs typer: pip install 'ollama-compat[launch]'\n")
