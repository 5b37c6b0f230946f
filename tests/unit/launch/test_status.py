"""The states of servers and their reasons."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from tests.unit.launch.fake_runtime import FakeRuntime
from vllm_launch import ready, status
from vllm_launch.ready import Answer
from vllm_launch.servers import Server

CHAT = Server(name="chat", model="org/model", port=8001)
LOADING = "Loading safetensors checkpoint shards:  25% Completed | 1/4\n"
FAILING = "ValueError: No such weights\n"
SILENT = Answer("unreachable", "http://127.0.0.1:8001 does not answer: refused")


@pytest.fixture
def look(monkeypatch):
    """The status of a server with this instance, answer and log."""

    def run(answer=SILENT, log="", state="running", **instance):
        runtime = FakeRuntime(logs={"chat": log})
        runtime.has(CHAT, state, **instance)
        monkeypatch.setattr(ready, "ask", lambda *_: answer)
        return status.look(runtime, runtime.there["chat"], None)

    return run


def test_ready_server_has_no_reason(look):
    result = look(Answer("ready"), restarts=2)
    assert (result.state, result.reason, result.restarts) == ("ready", "", 2)


def test_starting_server_shows_its_progress(look):
    result = look(log=LOADING)
    assert (result.state, result.reason) == ("starting", "loading weights, 25 % (1 of 4 files)")


def test_server_that_stopped_answering_is_unhealthy(look):
    result = look(log=LOADING, unhealthy="3 health checks in a row have failed")
    assert result.state == "unhealthy"
    assert result.reason == f"{SILENT.reason}; 3 health checks in a row have failed"


@pytest.mark.parametrize("readiness", ["unhealthy", "unexpected-server"])
def test_other_readiness_is_shown_with_its_reason(look, readiness):
    result = look(Answer(readiness, "it is so"))
    assert (result.state, result.reason) == (readiness, "it is so")


def test_exited_server_shows_exit_and_cause(look):
    result = look(state="exited", log=FAILING)
    assert (result.state, result.reason) == ("exited", "ended with status 1. Cause: ValueError: No such weights")
    assert look(state="exited").reason == "ended with status 1"


def test_restarting_server_shows_restarts_and_cause(look):
    result = look(state="restarting", log=FAILING, restarts=1)
    assert result.reason == "ended with status 1; restarted once. Cause: ValueError: No such weights"
    result = look(log=FAILING, restarts=4)
    assert result.state == "starting"
    assert result.reason == "importing vLLM; restarted 4 times. Cause: ValueError: No such weights"


def test_status_is_serializable_as_json(look):
    result = json.loads(json.dumps(look(Answer("ready")).to_json()))
    assert result == {
        "name": "chat",
        "runtime": "process",
        "state": "ready",
        "reason": "",
        "url": "http://127.0.0.1:8001",
        "models": ["org/model"],
        "id": "1",
        "started_at": 0.0,
        "restarts": 0,
    }


def shown(width, *statuses):
    page = io.StringIO()
    Console(file=page, width=width).print(status.view(statuses, width))
    return page.getvalue()


def test_narrow_terminal_wraps_only_the_models(look):
    result = replace(look(Answer("ready")), models=("LGAI-EXAONE/EXAONE-4.0-32B-AWQ",))
    assert "chat    ready  http://127.0.0.1:8001  process  1   LGAI-EX" in shown(65, result)


def test_very_narrow_terminal_shows_complete_paragraphs(look):
    result = replace(look(Answer("ready")), id="0123456789ab", models=("nlpai-lab/KURE-v1",))
    assert shown(40, result, replace(result, name="embed")) == "".join(
        f"{name} ready\n  http://127.0.0.1:8001\n  process 0123456789ab\n  nlpai-lab/KURE-v1\n"
        for name in ("chat", "embed")
    )
