"""`/api/chat` on `/v1/chat/completions`: what is sent, and what comes back."""

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


def ask(body: dict[str, Any] | None = None, *script: Any, **changes: Any) -> Play:
    """The playing of a chat."""
    return play(
        chat(call("/api/chat", {"messages": [USER], **(body or {})}, **changes)), *(script or (chat_stream("Hi"),))
    )


def refusal(body: dict[str, Any], *script: Any, **changes: Any) -> ResponseError:
    with pytest.raises(ResponseError) as caught:
        ask(body, *script, **changes)
    return caught.value


# What is sent


def test_a_chat_is_a_chat_completion_with_ollamas_defaults() -> None:
    played = ask()
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
def test_what_else_is_sent(body: dict[str, Any], sent: dict[str, Any]) -> None:
    payload = ask(body).payload
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
def test_what_is_not_sent(body: dict[str, Any], absent: str) -> None:
    assert absent not in ask(body).payload


def test_a_trailing_assistant_message_is_continued() -> None:
    payload = ask({"messages": [USER, {"role": "assistant", "content": "The capital of"}]}).payload
    assert (payload["add_generation_prompt"], payload["continue_final_message"]) == (False, True)


def test_any_other_message_is_answered() -> None:
    assert "continue_final_message" not in ask().payload


def test_neighbours_of_one_role_are_joined() -> None:
    assert ask({"messages": [USER, USER]}).payload["messages"] == [{"role": "user", "content": "hi\n\nhi"}]


def test_a_profile_begins_the_conversation_and_sets_options() -> None:
    payload = ask(profile={"system": "Arr", "parameters": {"top_k": 5}}).payload
    assert payload["messages"] == [{"role": "system", "content": "Arr"}, USER]
    assert payload["top_k"] == 5


# What comes back


def test_an_answer_is_a_message() -> None:
    part = ask().parts[0]
    assert part["message"] == {"role": "assistant", "content": "Hi"}
    assert (part["model"], part["created_at"], part["done"], part["done_reason"]) == ("smol", STAMP, True, "stop")


def test_the_model_comes_back_as_it_was_asked_for() -> None:
    assert ask(model="SMOL:latest").parts[0]["model"] == "SMOL:latest"


def test_thoughts_and_calls_are_fields_of_the_message() -> None:
    pieces = [{"index": 0, "id": "tool-12345678", "function": {"name": "weather", "arguments": "{}"}}]
    script = [delta(reasoning="Hm"), delta(tool_calls=pieces), delta("tool_calls")]
    part = ask({"tools": [WEATHER], "think": True}, tokens(1, 2), tokens(1), tokens(1), script).parts[0]
    assert part["message"] == {
        "role": "assistant",
        "content": "",
        "thinking": "Hm",
        "tool_calls": [{"id": "call_12345678", "function": {"index": 0, "name": "weather", "arguments": {}}}],
    }


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload")])
def test_no_messages_are_no_work(keep_alive: Any, reason: str) -> None:
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


def test_stop_strings_cut_the_answer_and_not_the_thoughts() -> None:
    script = [delta(reasoning="a X b"), delta(content="c X d"), delta("stop")]
    played = ask({"think": True, "options": {"stop": ["X"]}}, tokens(1, 2), tokens(1), tokens(1), script)
    assert "stop" not in played.payload
    assert played.parts[0]["message"] == {"role": "assistant", "content": "c ", "thinking": "a X b"}


def test_a_fifth_stop_string_is_cut_off_here() -> None:
    played = ask({"options": {"stop": ["1", "2", "3", "4", "5"]}}, chat_stream("a5b")[:-3])
    assert played.parts[0]["message"]["content"] == "a"


# Refusals


@pytest.mark.parametrize(
    ("reply", "text", "status"),
    [
        (NO_SUCH_PATH, '"smol" does not support chat', 400),
        (refused("Grammar error: Invalid type: nonsense"), "Grammar error: Invalid type: nonsense (status 400", 400),
        (refused('"auto" tool choice requires --enable-auto-tool-choice and'), "the vLLM server at", 400),
    ],
)
def test_a_refusal_of_vllms(reply: Any, text: str, status: int) -> None:
    error = refusal({}, reply)
    assert error.error.startswith(text)
    assert error.status_code == status


def test_a_model_that_is_gone_is_for_the_dispatcher_to_find_again() -> None:
    with pytest.raises(Exception, match="does not exist") as caught:
        ask({}, MODEL_MISSING)
    assert type(caught.value).__name__ == "ModelGone"


def test_tools_on_a_profile_that_has_none_are_ollamas_refusal() -> None:
    error = refusal({"tools": [WEATHER]}, profile={"capabilities": ["completion"]})
    assert error.error == "registry.ollama.ai/library/smol:latest does not support tools"
    assert error.status_code == 400


@pytest.mark.parametrize("body", [{"images": ["no base64!"]}])
def test_a_broken_image_is_ollamas_refusal(body: dict[str, Any]) -> None:
    assert refusal({"messages": [{**USER, **body}]}).error == "illegal base64 data at input byte 0"


# Too long a conversation

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


def test_the_oldest_messages_go_until_it_fits() -> None:
    played = ask({"messages": LONG}, TOO_LONG, tokens(*range(3000)), FITS, FITS, chat_stream("Hi"))
    assert played.paths == [CHAT, TOKENIZE, TOKENIZE, TOKENIZE, CHAT]
    assert kept(played) == ["S", "two", "three"]


def test_a_conversation_that_fits_costs_no_further_request() -> None:
    assert ask({"messages": LONG}).paths == [CHAT]


def test_a_smaller_window_is_asked_for_by_num_ctx() -> None:
    many = tokens(*range(300))
    played = ask({"messages": LONG, "options": {"num_ctx": 256}}, many, many, FITS, chat_stream("Hi"))
    assert played.paths == [TOKENIZE, TOKENIZE, TOKENIZE, CHAT]
    assert kept(played) == ["S", "three"]


def test_a_small_conversation_in_a_small_window_is_not_counted() -> None:
    assert ask({"options": {"num_ctx": 256}}).paths == [CHAT]


def test_a_message_that_does_not_fit_by_itself_loses_its_middle() -> None:
    played = ask({"options": {"num_ctx": 8, "num_keep": 2}}, tokens(*range(100)), completion_stream("Hi"))
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.payload["prompt"] == [0, 1, 97, 98, 99]
    assert played.parts[0]["message"]["content"] == "Hi"


def test_thoughts_are_told_in_the_answer_to_a_cut_prompt_too() -> None:
    script = (tokens(1, 2), tokens(1), tokens(1), tokens(*range(100)), completion_stream("<think>Hm</think>", "Hi"))
    played = ask({"think": True, "options": {"num_ctx": 8}}, *script)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hi", "thinking": "Hm"}


def test_a_prompt_with_tools_is_not_cut_but_refused() -> None:
    error = refusal({"tools": [WEATHER], "options": {"num_ctx": 8}}, tokens(*range(100)))
    assert "request (100 tokens) exceeds the available context size (8 tokens)" in error.error
    assert error.status_code == 400


def test_a_server_without_tokenize_is_asked_with_all_messages() -> None:
    error = refusal({"messages": LONG}, TOO_LONG, NO_SUCH_PATH, NO_SUCH_PATH, TOO_LONG)
    assert "maximum context length" in error.error


def test_without_a_known_window_a_refusal_is_the_servers() -> None:
    assert "maximum context length" in refusal({}, TOO_LONG, card=ModelCard("smol")).error


# Thinking without a reasoning parser

QWQ = ModelCard("Qwen/QwQ-32B", max_model_len=2048)
OPENS = [tokens(1, strings=["<think>"])] * 3


def test_a_format_binds_from_the_first_token_so_there_is_no_thought() -> None:
    played = ask({"format": "json"}, *OPENS, chat_stream('{"a": 1}'), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": '{"a": 1}'}


def test_an_answer_that_goes_on_from_the_callers_beginning_is_no_thought() -> None:
    messages = [USER, {"role": "assistant", "content": "The capital"}]
    played = ask({"messages": messages}, *OPENS, chat_stream(" of France"), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": " of France"}


def test_without_either_the_template_has_begun_a_thought() -> None:
    played = ask({}, *OPENS, chat_stream("hm</think>42"), card=QWQ)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "42", "thinking": "hm"}


def told(prompt: str, *pieces: str) -> list[Any]:
    """A stream whose first event tells the text of the prompt."""
    first, *rest = chat_stream(*pieces)
    return [json.dumps({**json.loads(first), "prompt_text": prompt}).encode(), *rest]


def test_an_unlisted_model_is_asked_once_whether_its_prompt_opens_a_thought() -> None:
    context = ClientContext(FakeClock())
    first = ask({}, told("<user>hi<assistant><think>\n", "hm</think>42"), context=context)
    second = ask({}, chat_stream("hm</think>42"), context=context)
    assert (first.payload.get("return_prompt_text"), second.payload.get("return_prompt_text")) == (True, None)
    for played in (first, second):
        assert played.parts[0]["message"] == {"role": "assistant", "content": "42", "thinking": "hm"}


def test_a_prompt_that_opens_nothing_is_remembered_too() -> None:
    context = ClientContext(FakeClock())
    first = ask({}, told("<user>hi<assistant>", "a </think> b"), context=context)
    assert first.parts[0]["message"]["content"] == "a </think> b"
    assert "return_prompt_text" not in ask(context=context).payload


@pytest.mark.parametrize("body", [{"format": "json"}, {"messages": [USER, {"role": "assistant", "content": "so"}]}])
def test_a_call_whose_prompt_tells_nothing_does_not_ask_for_it(body: dict[str, Any]) -> None:
    assert "return_prompt_text" not in ask(body).payload


def test_what_a_template_is_told_decides_what_its_prompt_opens() -> None:
    context = ClientContext(FakeClock())
    ask({}, told("<assistant>", "Hi"), context=context)
    other = ask({}, told("<think>", "hm</think>42"), context=context, profile={"chat_template_kwargs": {"deep": True}})
    assert other.parts[0]["message"]["thinking"] == "hm"
