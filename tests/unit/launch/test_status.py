"""How servers are told to be: each state with its reason."""

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
    """How a server is told to be, from what there is of it, its answer and its log."""

    def run(answer=SILENT, log="", state="running", **instance):
        runtime = FakeRuntime(logs={"chat": log})
        runtime.has(CHAT, state, **instance)
        monkeypatch.setattr(ready, "ask", lambda *_: answer)
        return status.look(runtime, runtime.there["chat"], None)

    return run


def test_one_that_answers_needs_no_reason(look):
    told = look(Answer("ready"), restarts=2)
    assert (told.state, told.reason, told.restarts) == ("ready", "", 2)


def test_one_that_has_not_answered_yet_tells_how_far_it_is(look):
    told = look(log=LOADING)
    assert (told.state, told.reason) == ("starting", "loading weights, 25 % (1 of 4 files)")


def test_one_that_answers_no_more_is_not_starting(look):
    told = look(log=LOADING, unhealthy="3 health checks in a row have failed")
    assert told.state == "unhealthy"
    assert told.reason == f"{SILENT.reason}; 3 health checks in a row have failed"


@pytest.mark.parametrize("readiness", ["unhealthy", "unexpected-server"])
def test_one_that_answers_otherwise_tells_what(look, readiness):
    told = look(Answer(readiness, "it is so"))
    assert (told.state, told.reason) == (readiness, "it is so")


def test_one_that_has_ended_tells_how_and_why(look):
    told = look(state="exited", log=FAILING)
    assert (told.state, told.reason) == ("exited", "ended with status 1. Cause: ValueError: No such weights")
    assert look(state="exited").reason == "ended with status 1"


def test_one_that_ends_again_and_again_tells_how_often_and_why_whenever_it_is_looked_at(look):
    told = look(state="restarting", log=FAILING, restarts=1)
    assert told.reason == "ended with status 1; restarted once. Cause: ValueError: No such weights"
    told = look(log=FAILING, restarts=4)
    assert told.state == "starting"
    assert told.reason == "importing vLLM; restarted 4 times. Cause: ValueError: No such weights"


def test_as_json(look):
    told = json.loads(json.dumps(look(Answer("ready")).to_json()))
    assert told == {
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


def test_a_narrow_terminal_breaks_the_models_and_nothing_else(look):
    told = replace(look(Answer("ready")), models=("LGAI-EXAONE/EXAONE-4.0-32B-AWQ",))
    assert "chat    ready  http://127.0.0.1:8001  process  1   LGAI-EX" in shown(65, told)


def test_one_that_is_too_narrow_for_a_table_gets_paragraphs_of_which_nothing_is_lost(look):
    told = replace(look(Answer("ready")), id="0123456789ab", models=("nlpai-lab/KURE-v1",))
    assert shown(40, told, replace(told, name="embed")) == "".join(
        f"{name} ready\n  http://127.0.0.1:8001\n  process 0123456789ab\n  nlpai-lab/KURE-v1\n"
        for name in ("chat", "embed")
    )
