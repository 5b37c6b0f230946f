"""A call that Ollama answers instead of vLLM."""

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


def call_of(path: str = "/api/chat", profile: JsonObject | None = None, **body: Any) -> Call:
    """A call to `smol` that `qwen3:8b` answers."""
    return call(path, body, card=ModelCard("qwen3:8b"), profile=profile)


def sent_body(passed_call: Call, *script: Any) -> JsonObject:
    """The body of the request to Ollama."""
    return play(passthrough(passed_call), *(script or [reply(LAST)])).payload


# Request


def test_request_is_that_of_caller_with_name_of_fallback() -> None:
    played = play(passthrough(call_of(messages=MESSAGES, options={"seed": 1}, think=True, stream=False)), reply(LAST))
    (request,) = played.requests
    assert (request.method, request.base, request.path, request.credential) == ("POST", "", "/api/chat", "ollama")
    assert request.payload == {
        "model": "qwen3:8b",
        "messages": MESSAGES,
        "options": {"seed": 1},
        "think": True,
        "stream": False,
    }


def test_body_of_caller_is_not_changed() -> None:
    passed_call = call_of(
        messages=MESSAGES, options={"seed": 1}, profile={"parameters": {"top_k": 1}, "system": "Kurz."}
    )
    before = json.dumps(passed_call.body)
    sent_body(passed_call)
    assert json.dumps(passed_call.body) == before


def test_options_of_caller_override_options_of_profile() -> None:
    profile = {"parameters": {"temperature": 0.2, "top_k": 10}}
    assert sent_body(call_of(messages=MESSAGES, options={"top_k": 1}, profile=profile))["options"] == {
        "temperature": 0.2,
        "top_k": 1,
    }
    assert sent_body(call_of(messages=MESSAGES, profile=profile))["options"] == {"temperature": 0.2, "top_k": 10}
    assert sent_body(call_of(messages=MESSAGES, options=None, profile=profile))["options"]["top_k"] == 10


def test_chat_starts_with_messages_of_profile() -> None:
    profile: JsonObject = {"system": "Kurz.", "messages": [{"role": "user", "content": "first"}]}
    assert [message["content"] for message in sent_body(call_of(messages=MESSAGES, profile=profile))["messages"]] == [
        "Kurz.",
        "first",
        "안녕?",
    ]


def test_system_prompt_of_caller_overrides_that_of_profile() -> None:
    profile = {"system": "Kurz."}
    assert sent_body(call_of("/api/generate", prompt="hi", profile=profile))["system"] == "Kurz."
    assert sent_body(call_of("/api/generate", prompt="hi", system="Lang.", profile=profile))["system"] == "Lang."


def test_request_has_no_added_fields_without_profile() -> None:
    assert sent_body(call_of("/api/generate", prompt="hi")) == {"model": "qwen3:8b", "prompt": "hi"}


def test_embed_request_has_no_system_prompt() -> None:
    body = sent_body(call_of("/api/embed", input=["a"], profile={"system": "Kurz."}), reply({"embeddings": [[1.0]]}))
    assert body == {"model": "qwen3:8b", "input": ["a"]}


# Reply


def test_reply_has_requested_model_name() -> None:
    passed_call = call_of(messages=MESSAGES)
    played = play(passthrough(passed_call), reply(line("Ja") | LAST))
    assert played.parts == [{**line("Ja"), **LAST, "model": "smol"}]
    assert (passed_call.progress.tokens_in, passed_call.progress.tokens_out, passed_call.progress.done) == (7, 3, True)


def test_reply_without_model_name_is_unchanged() -> None:
    played = play(passthrough(call_of("/api/embeddings", prompt="a")), reply({"embedding": [1.0]}))
    assert played.parts == [{"embedding": [1.0]}]


def test_stream_parts_have_requested_model_name() -> None:
    passed_call = call_of(messages=MESSAGES, stream=True)
    played = play(passthrough(passed_call), [event(line("J")), event(line("a")), event(LAST)])
    assert played.parts == [line("J", model="smol"), line("a", model="smol"), {**LAST, "model": "smol"}]
    assert (passed_call.progress.tokens_in, passed_call.progress.tokens_out, passed_call.progress.done) == (7, 3, True)


def test_first_part_sets_first_token_time_and_delivered() -> None:
    passed_call = call_of(messages=MESSAGES, stream=True)
    steps = passthrough(passed_call)
    progress = []
    for outcome in (None, None, event(line("J")), None, event(line("a"))):
        steps.send(outcome)
        progress.append((passed_call.progress.first_token, passed_call.progress.delivered))
    assert progress[:2] == [(None, False)] * 2
    assert progress[2][1]
    assert progress[2:] == [progress[2]] * 3
    assert not passed_call.progress.done


def test_missing_count_is_zero() -> None:
    passed_call = call_of(messages=MESSAGES)
    play(
        passthrough(passed_call), reply({"model": "qwen3:8b", "done": True, "prompt_eval_count": 7, "eval_count": None})
    )
    assert (passed_call.progress.tokens_in, passed_call.progress.tokens_out) == (7, 0)


# Errors


@pytest.mark.parametrize("stream", [False, True])
def test_error_reply_raises_error_of_ollama(stream: bool) -> None:
    passed_call = call_of(messages=MESSAGES, stream=stream)
    with pytest.raises(ResponseError) as caught:
        play(passthrough(passed_call), Reply(404, b'{"error": "model \'qwen3:8b\' not found"}', retry_after=2.0))
    assert (caught.value.error, caught.value.status_code) == ("model 'qwen3:8b' not found", 404)
    assert passed_call.progress.retry_after == 2.0


def test_error_contains_page_of_proxy() -> None:
    with pytest.raises(ResponseError, match="Bad Gateway") as caught:
        play(passthrough(call_of(messages=MESSAGES)), Reply(502, b"<h1>Bad Gateway</h1>"))
    assert caught.value.status_code == 502


def test_error_in_stream_is_raised() -> None:
    with pytest.raises(ResponseError) as caught:
        play(
            passthrough(call_of(messages=MESSAGES, stream=True)), [event(line("J")), event({"error": "out of memory"})]
        )
    assert (caught.value.error, caught.value.status_code) == ("out of memory", -1)


def test_error_in_stream_has_status_of_ollama() -> None:
    error = {"error": "the cloud is full", "status_code": 503}
    with pytest.raises(ResponseError) as caught:
        play(passthrough(call_of(messages=MESSAGES, stream=True)), [event(error)])
    assert (caught.value.error, caught.value.status_code) == ("the cloud is full", 503)


@pytest.mark.parametrize("events", [[], [event(line("J"))], [event(line("J")), event(line("a"))]])
def test_stream_without_last_part_raises_incomplete_reply(events: list[bytes]) -> None:
    with pytest.raises(IncompleteReply, match="without its last part"):
        play(passthrough(call_of(messages=MESSAGES, stream=True)), events)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("stream", [False, True])
def test_reply_that_is_no_json_object_raises_malformed_reply(body: bytes, stream: bool) -> None:
    with pytest.raises(MalformedReply, match="Ollama sent a malformed reply"):
        play(passthrough(call_of(messages=MESSAGES, stream=stream)), [body] if stream else Reply(200, body))


@pytest.mark.parametrize("count", ["seven", [7], {}])
def test_count_that_is_no_number_is_ignored(count: object) -> None:
    passed_call = call_of(messages=MESSAGES)
    play(passthrough(passed_call), reply({**LAST, "prompt_eval_count": count, "eval_count": count}))
    assert (passed_call.progress.tokens_in, passed_call.progress.tokens_out) == (0, 0)


@pytest.mark.parametrize("status", ["late", [1]])
def test_status_that_is_no_number_is_ignored(status: object) -> None:
    with pytest.raises(ResponseError, match="out of memory"):
        play(
            passthrough(call_of(messages=MESSAGES, stream=True)),
            [event({"error": "out of memory", "status_code": status})],
        )


def test_transport_error_is_raised_unchanged() -> None:
    with pytest.raises(httpx.ReadTimeout):
        play(passthrough(call_of(messages=MESSAGES)), httpx.ReadTimeout("slow"))


def test_malformed_reply_error_names_ollama_host() -> None:
    for error in (malformed_reply("", "it is empty"), redirected("/api/chat", "http://x.example/")):
        with pytest.raises(MalformedReply) as caught:
            play(passthrough(call_of(messages=MESSAGES)), error)
        assert str(caught.value).startswith(("Ollama sent a malformed reply", "Ollama redirects to http://x.example/"))
        assert "check OLLAMA_HOST" in str(caught.value)
        assert "VLLM" not in str(caught.value)
        assert caught.value.status_code == error.status_code
