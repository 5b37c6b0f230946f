"""A call that Ollama itself answers in place of vLLM."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from ollama import ResponseError

from ollama_compat.call import Call
from ollama_compat.exceptions import IncompleteReply, MalformedReply
from ollama_compat.mapping.errors import malformed_reply, redirected
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.passthrough import passthrough
from ollama_compat.steps import JsonObject, Reply
from tests.play import STAMP, call, event, play, reply

MESSAGES = [{"role": "user", "content": "안녕?"}]
LAST = {"model": "qwen3:8b", "done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}


def line(content: str, **fields: Any) -> JsonObject:
    message = {"role": "assistant", "content": content}
    return {"model": "qwen3:8b", "created_at": STAMP, "message": message, "done": False, **fields}


def handed(path: str = "/api/chat", profile: JsonObject | None = None, **body: Any) -> Call:
    """A call of `smol`, handed on to `qwen3:8b`."""
    return call(path, body, card=ModelCard("qwen3:8b"), profile=profile)


def asked(made: Call, *script: Any) -> JsonObject:
    """The body that Ollama is sent."""
    return play(passthrough(made), *(script or [reply(LAST)])).payload


# The request


def test_it_is_the_callers_request_under_the_models_name_there() -> None:
    played = play(passthrough(handed(messages=MESSAGES, options={"seed": 1}, think=True, stream=False)), reply(LAST))
    (request,) = played.requests
    assert (request.method, request.base, request.path, request.credential) == ("POST", "", "/api/chat", "ollama")
    assert request.payload == {
        "model": "qwen3:8b",
        "messages": MESSAGES,
        "options": {"seed": 1},
        "think": True,
        "stream": False,
    }


def test_the_callers_body_is_not_changed() -> None:
    made = handed(messages=MESSAGES, options={"seed": 1}, profile={"parameters": {"top_k": 1}, "system": "Kurz."})
    before = json.dumps(made.body)
    asked(made)
    assert json.dumps(made.body) == before


def test_the_options_are_the_callers_over_the_profiles() -> None:
    profile = {"parameters": {"temperature": 0.2, "top_k": 10}}
    assert asked(handed(messages=MESSAGES, options={"top_k": 1}, profile=profile))["options"] == {
        "temperature": 0.2,
        "top_k": 1,
    }
    assert asked(handed(messages=MESSAGES, profile=profile))["options"] == {"temperature": 0.2, "top_k": 10}
    assert asked(handed(messages=MESSAGES, options=None, profile=profile))["options"]["top_k"] == 10


def test_a_chat_begins_as_the_profile_says() -> None:
    profile: JsonObject = {"system": "Kurz.", "messages": [{"role": "user", "content": "first"}]}
    assert [message["content"] for message in asked(handed(messages=MESSAGES, profile=profile))["messages"]] == [
        "Kurz.",
        "first",
        "안녕?",
    ]


def test_a_prompt_has_the_profiles_system_prompt_unless_it_brings_its_own() -> None:
    profile = {"system": "Kurz."}
    assert asked(handed("/api/generate", prompt="hi", profile=profile))["system"] == "Kurz."
    assert asked(handed("/api/generate", prompt="hi", system="Lang.", profile=profile))["system"] == "Lang."


def test_without_a_profile_nothing_is_added() -> None:
    assert asked(handed("/api/generate", prompt="hi")) == {"model": "qwen3:8b", "prompt": "hi"}


def test_embeddings_have_no_system_prompt() -> None:
    body = asked(handed("/api/embed", input=["a"], profile={"system": "Kurz."}), reply({"embeddings": [[1.0]]}))
    assert body == {"model": "qwen3:8b", "input": ["a"]}


# The reply


def test_a_reply_comes_back_under_the_name_that_was_asked_for() -> None:
    made = handed(messages=MESSAGES)
    played = play(passthrough(made), reply(line("Ja") | LAST))
    assert played.parts == [{**line("Ja"), **LAST, "model": "smol"}]
    assert (made.progress.tokens_in, made.progress.tokens_out, made.progress.done) == (7, 3, True)


def test_a_reply_without_a_name_gets_none() -> None:
    played = play(passthrough(handed("/api/embeddings", prompt="a")), reply({"embedding": [1.0]}))
    assert played.parts == [{"embedding": [1.0]}]


def test_a_stream_comes_back_part_by_part() -> None:
    made = handed(messages=MESSAGES, stream=True)
    played = play(passthrough(made), [event(line("J")), event(line("a")), event(LAST)])
    assert played.parts == [line("J", model="smol"), line("a", model="smol"), {**LAST, "model": "smol"}]
    assert (made.progress.tokens_in, made.progress.tokens_out, made.progress.done) == (7, 3, True)


def test_the_answer_has_begun_with_its_first_part() -> None:
    made = handed(messages=MESSAGES, stream=True)
    exchange = passthrough(made)
    began = []
    for outcome in (None, None, event(line("J")), None, event(line("a"))):
        exchange.send(outcome)
        began.append((made.progress.first_token, made.progress.delivered))
    assert began[:2] == [(None, False)] * 2
    assert began[2][1]
    assert began[2:] == [began[2]] * 3
    assert not made.progress.done


def test_counts_may_be_missing() -> None:
    made = handed(messages=MESSAGES)
    play(passthrough(made), reply({"model": "qwen3:8b", "done": True, "prompt_eval_count": 7, "eval_count": None}))
    assert (made.progress.tokens_in, made.progress.tokens_out) == (7, 0)


# Failures


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_ollamas_own(stream: bool) -> None:
    made = handed(messages=MESSAGES, stream=stream)
    with pytest.raises(ResponseError) as caught:
        play(passthrough(made), Reply(404, b'{"error": "model \'qwen3:8b\' not found"}', retry_after=2.0))
    assert (caught.value.error, caught.value.status_code) == ("model 'qwen3:8b' not found", 404)
    assert made.progress.retry_after == 2.0


def test_a_page_of_a_proxys_is_shown_as_it_is() -> None:
    with pytest.raises(ResponseError, match="Bad Gateway") as caught:
        play(passthrough(handed(messages=MESSAGES)), Reply(502, b"<h1>Bad Gateway</h1>"))
    assert caught.value.status_code == 502


def test_an_error_within_a_stream_ends_it() -> None:
    with pytest.raises(ResponseError) as caught:
        play(passthrough(handed(messages=MESSAGES, stream=True)), [event(line("J")), event({"error": "out of memory"})])
    assert (caught.value.error, caught.value.status_code) == ("out of memory", -1)


def test_its_status_is_told_where_ollama_tells_it() -> None:
    error = {"error": "the cloud is full", "status_code": 503}
    with pytest.raises(ResponseError) as caught:
        play(passthrough(handed(messages=MESSAGES, stream=True)), [event(error)])
    assert (caught.value.error, caught.value.status_code) == ("the cloud is full", 503)


@pytest.mark.parametrize("events", [[], [event(line("J"))], [event(line("J")), event(line("a"))]])
def test_a_stream_without_its_last_part_is_no_answer(events: list[bytes]) -> None:
    with pytest.raises(IncompleteReply, match="without its last part"):
        play(passthrough(handed(messages=MESSAGES, stream=True)), events)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_json_object_is_malformed(body: bytes, stream: bool) -> None:
    with pytest.raises(MalformedReply, match="Ollama sent a malformed reply"):
        play(passthrough(handed(messages=MESSAGES, stream=stream)), [body] if stream else Reply(200, body))


@pytest.mark.parametrize("count", ["seven", [7], {}])
def test_a_count_that_is_no_number_is_not_counted(count: object) -> None:
    made = handed(messages=MESSAGES)
    play(passthrough(made), reply({**LAST, "prompt_eval_count": count, "eval_count": count}))
    assert (made.progress.tokens_in, made.progress.tokens_out) == (0, 0)


@pytest.mark.parametrize("status", ["late", [1]])
def test_a_status_that_is_no_number_is_no_other_error(status: object) -> None:
    with pytest.raises(ResponseError, match="out of memory"):
        play(
            passthrough(handed(messages=MESSAGES, stream=True)),
            [event({"error": "out of memory", "status_code": status})],
        )


def test_a_failure_of_the_connection_is_the_callers() -> None:
    with pytest.raises(httpx.ReadTimeout):
        play(passthrough(handed(messages=MESSAGES)), httpx.ReadTimeout("slow"))


def test_what_is_no_answer_says_where_ollama_is_looked_for() -> None:
    for strange in (malformed_reply("", "it is empty"), redirected("/api/chat", "http://x.example/")):
        with pytest.raises(MalformedReply) as caught:
            play(passthrough(handed(messages=MESSAGES)), strange)
        assert str(caught.value).startswith(("Ollama sent a malformed reply", "Ollama redirects to http://x.example/"))
        assert "check OLLAMA_HOST" in str(caught.value)
        assert "VLLM" not in str(caught.value)
        assert caught.value.status_code == strange.status_code
