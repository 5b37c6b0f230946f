"""`/api/chat` on `/v1/chat/completions`: the request and the reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.call import ClientContext
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.chat import chat
from tests.play import (
    MODEL_MISSING,
    NO_SUCH_PATH,
    STAMP,
    TOO_LONG,
    FakeClock,
    Play,
    call,
    chat_stream,
    completion_stream,
    delta,
    play,
    refused,
    tokens,
)

CHAT, TOKENIZE, COMPLETIONS = "/v1/chat/completions", "/tokenize", "/v1/completions"
USER = {"role": "user", "content": "hi"}
WEATHER = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "object"}


def run(body: dict[str, Any] | None = None, *script: Any, **changes: Any) -> Play:
    """Run the steps of `/api/chat`."""
    return play(
        chat(call("/api/chat", {"messages": [USER], **(body or {})}, **changes)), *(script or (chat_stream("Hi"),))
    )


def refusal(body: dict[str, Any], *script: Any, **changes: Any) -> ResponseError:
    with pytest.raises(ResponseError) as caught:
        run(body, *script, **changes)
    return caught.value


# Request


def test_request_has_defaults_of_ollama() -> None:
    played = run()
    assert played.paths == [CHAT]
    assert played.payload == {
        "model": "smol",
        "messages": [USER],
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": 2048,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_prompt_text": True,
        "stream_interval": 1_000_000,
    }


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"options": {"temperature": 0.1, "num_predict": 5}}, {"temperature": 0.1, "max_tokens": 5}),
        ({"options": {"stop": ["a", "b"]}}, {"stop": ["a", "b"]}),
        (
            {"format": "json"},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": SCHEMA}}},
        ),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 0}),
        ({"tools": [WEATHER]}, {"tools": [WEATHER]}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
    ],
)
def test_request_has_translated_field(body: dict[str, Any], sent: dict[str, Any]) -> None:
    payload = run(body).payload
    assert {key: payload.get(key) for key in sent} == sent


@pytest.mark.parametrize(
    ("body", "absent"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [WEATHER]}, "stream_interval"),
        ({"stream": True}, "stream_interval"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"options": {"stop": ["a", "b", "c", "d", "e"]}}, "stop"),
        ({"options": {"stop": [""]}}, "stop"),
        ({"options": {"seed": -1}}, "seed"),
        ({"format": ""}, "response_format"),
        ({"keep_alive": "5m"}, "keep_alive"),
    ],
)
def test_request_omits_field(body: dict[str, Any], absent: str) -> None:
    assert absent not in run(body).payload


def test_trailing_assistant_message_is_continued() -> None:
    payload = run({"messages": [USER, {"role": "assistant", "content": "The capital of"}]}).payload
    assert (payload["add_generation_prompt"], payload["continue_final_message"]) == (False, True)


def test_trailing_user_message_is_answered() -> None:
    assert "continue_final_message" not in run().payload


def test_consecutive_messages_of_one_role_are_joined() -> None:
    assert run({"messages": [USER, USER]}).payload["messages"] == [{"role": "user", "content": "hi\n\nhi"}]


def test_profile_adds_system_message_and_options() -> None:
    payload = run(profile={"system": "Arr", "parameters": {"top_k": 5}}).payload
    assert payload["messages"] == [{"role": "system", "content": "Arr"}, USER]
    assert payload["top_k"] == 5


# Reply


def test_reply_is_a_message() -> None:
    part = run().parts[0]
    assert part["message"] == {"role": "assistant", "content": "Hi"}
    assert (part["model"], part["created_at"], part["done"], part["done_reason"]) == ("smol", STAMP, True, "stop")


def test_reply_has_requested_model_name() -> None:
    assert run(model="SMOL:latest").parts[0]["model"] == "SMOL:latest"


def test_reply_has_thinking_and_tool_calls() -> None:
    pieces = [{"index": 0, "id": "tool-12345678", "function": {"name": "weather", "arguments": "{}"}}]
    script = [delta(reasoning="Hm"), delta(tool_calls=pieces), delta("tool_calls")]
    part = run({"tools": [WEATHER], "think": True}, tokens(1, 2), tokens(1), tokens(1), script).parts[0]
    assert part["message"] == {
        "role": "assistant",
        "content": "",
        "thinking": "Hm",
        "tool_calls": [{"id": "call_12345678", "function": {"index": 0, "name": "weather", "arguments": {}}}],
    }


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload")])
def test_empty_messages_load_or_unload_without_request(keep_alive: Any, reason: str) -> None:
    played = play(chat(call("/api/chat", {"messages": [], "keep_alive": keep_alive})))
    assert played.parts == [
        {
            "model": "smol",
            "created_at": STAMP,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": reason,
        }
    ]


def test_stop_strings_cut_content_only_when_thinking_is_on() -> None:
    script = [delta(reasoning="a X b"), delta(content="c X d"), delta("stop")]
    played = run({"think": True, "options": {"stop": ["X"]}}, tokens(1, 2), tokens(1), tokens(1), script)
    assert "stop" not in played.payload
    assert played.parts[0]["message"] == {"role": "assistant", "content": "c ", "thinking": "a X b"}


def test_client_applies_more_than_four_stop_strings() -> None:
    played = run({"options": {"stop": ["1", "2", "3", "4", "5"]}}, chat_stream("a5b")[:-3])
    assert played.parts[0]["message"]["content"] == "a"


# Errors


@pytest.mark.parametrize(
    ("reply", "text", "status"),
    [
        (NO_SUCH_PATH, '"smol" does not support chat', 400),
        (refused("Grammar error: Invalid type: nonsense"), "Grammar error: Invalid type: nonsense (status 400", 400),
        (refused('"auto" tool choice requires --enable-auto-tool-choice and'), "the vLLM server at", 400),
    ],
)
def test_error_reply_raises_ollama_error(reply: Any, text: str, status: int) -> None:
    error = refusal({}, reply)
    assert error.error.startswith(text)
    assert error.status_code == status


def test_server_without_tool_parser_gets_the_parser_of_the_family_in_the_error() -> None:
    reply = refused('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    llama = ModelCard("meta-llama/Llama-3.1-8B-Instruct")
    assert "--tool-call-parser llama3_json" in refusal({}, reply, card=llama).error
    assert "--tool-call-parser NAME" in refusal({}, reply, card=ModelCard("unknown")).error


def test_missing_model_raises_model_gone() -> None:
    with pytest.raises(Exception, match="does not exist") as caught:
        run({}, MODEL_MISSING)
    assert type(caught.value).__name__ == "ModelGone"


def test_tools_are_refused_when_profile_has_no_tools() -> None:
    error = refusal({"tools": [WEATHER]}, profile={"capabilities": ["completion"]})
    assert error.error == "registry.ollama.ai/library/smol:latest does not support tools"
    assert error.status_code == 400


@pytest.mark.parametrize("body", [{"images": ["no base64!"]}])
def test_invalid_image_raises_ollama_error(body: dict[str, Any]) -> None:
    assert refusal({"messages": [{**USER, **body}]}).error == "illegal base64 data at input byte 0"


# Window

FITS = tokens(*range(200))
LONG = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def kept(played: Play) -> list[str]:
    """The contents of the messages of the last request."""
    return [message["content"] for message in played.payload["messages"]]


def test_oldest_messages_are_dropped_until_conversation_fits() -> None:
    played = run({"messages": LONG}, TOO_LONG, tokens(*range(3000)), FITS, FITS, chat_stream("Hi"))
    assert played.paths == [CHAT, TOKENIZE, TOKENIZE, TOKENIZE, CHAT]
    assert kept(played) == ["S", "two", "three"]


def test_fitting_conversation_needs_one_request() -> None:
    assert run({"messages": LONG}).paths == [CHAT]


def test_num_ctx_limits_window() -> None:
    many = tokens(*range(300))
    played = run({"messages": LONG, "options": {"num_ctx": 256}}, many, many, FITS, chat_stream("Hi"))
    assert played.paths == [TOKENIZE, TOKENIZE, TOKENIZE, CHAT]
    assert kept(played) == ["S", "three"]


def test_small_conversation_is_not_counted_when_num_ctx_is_small() -> None:
    assert run({"options": {"num_ctx": 256}}).paths == [CHAT]


def test_middle_of_single_message_is_cut() -> None:
    played = run({"options": {"num_ctx": 8, "num_keep": 2}}, tokens(*range(100)), completion_stream("Hi"))
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.payload["prompt"] == [0, 1, 97, 98, 99]
    assert played.parts[0]["message"]["content"] == "Hi"


def test_thinking_is_parsed_when_prompt_is_cut() -> None:
    script = (tokens(1, 2), tokens(1), tokens(1), tokens(*range(100)), completion_stream("<think>Hm</think>", "Hi"))
    played = run({"think": True, "options": {"num_ctx": 8}}, *script)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hi", "thinking": "Hm"}


def test_too_long_prompt_with_tools_is_refused() -> None:
    error = refusal({"tools": [WEATHER], "options": {"num_ctx": 8}}, tokens(*range(100)))
    assert "request (100 tokens) exceeds the available context size (8 tokens)" in error.error
    assert error.status_code == 400


def test_all_messages_are_sent_without_tokenize() -> None:
    error = refusal({"messages": LONG}, TOO_LONG, NO_SUCH_PATH, NO_SUCH_PATH, TOO_LONG)
    assert "maximum context length" in error.error


def test_length_error_of_server_is_raised_when_window_is_unknown() -> None:
    assert "maximum context length" in refusal({}, TOO_LONG, card=ModelCard("smol")).error


# Thinking without a reasoning parser

QWQ = ModelCard("Qwen/QwQ-32B", max_model_len=2048)
OPENS = [tokens(1, strings=["<think>"])] * 3


def test_format_leaves_no_thinking() -> None:
    played = run({"format": "json"}, *OPENS, chat_stream('{"a": 1}'), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": '{"a": 1}'}


def test_continued_assistant_message_has_no_thinking() -> None:
    messages = [USER, {"role": "assistant", "content": "The capital"}]
    played = run({"messages": messages}, *OPENS, chat_stream(" of France"), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": " of France"}


def test_reply_starts_in_thinking_when_template_opens_it() -> None:
    played = run({}, *OPENS, chat_stream("hm</think>42"), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "42", "thinking": "hm"}


def stream_with_prompt(prompt: str, *pieces: str) -> list[Any]:
    """A stream whose first event contains the text of the prompt."""
    first, *rest = chat_stream(*pieces)
    return [json.dumps({**json.loads(first), "prompt_text": prompt}).encode(), *rest]


def test_prompt_text_of_unlisted_model_is_requested_once() -> None:
    context = ClientContext(FakeClock())
    first = run({}, stream_with_prompt("<user>hi<assistant><think>\n", "hm</think>42"), context=context)
    second = run({}, chat_stream("hm</think>42"), context=context)
    assert (first.payload.get("return_prompt_text"), second.payload.get("return_prompt_text")) == (True, None)
    for played in (first, second):
        assert played.parts[0]["message"] == {"role": "assistant", "content": "42", "thinking": "hm"}


def test_prompt_that_opens_no_thinking_is_cached() -> None:
    context = ClientContext(FakeClock())
    first = run({}, stream_with_prompt("<user>hi<assistant>", "a </think> b"), context=context)
    assert first.parts[0]["message"]["content"] == "a </think> b"
    assert "return_prompt_text" not in run(context=context).payload


@pytest.mark.parametrize("body", [{"format": "json"}, {"messages": [USER, {"role": "assistant", "content": "so"}]}])
def test_prompt_text_is_not_requested_for_format_or_continuation(body: dict[str, Any]) -> None:
    assert "return_prompt_text" not in run(body).payload


def test_template_kwargs_are_part_of_prompt_text_cache_key() -> None:
    context = ClientContext(FakeClock())
    run({}, stream_with_prompt("<assistant>", "Hi"), context=context)
    other = run(
        {},
        stream_with_prompt("<think>", "hm</think>42"),
        context=context,
        profile={"chat_template_kwargs": {"deep": True}},
    )
    assert other.parts[0]["message"]["thinking"] == "hm"
