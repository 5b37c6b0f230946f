"""`/api/generate`: with the chat template, raw, with a context, and fill in the middle."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.generate import generate
from tests.play import (
    NO_SUCH_PATH,
    STAMP,
    TOO_LONG,
    Play,
    call,
    chat_stream,
    choice,
    completion_stream,
    delta,
    play,
    tokens,
)

CHAT, TOKENIZE, COMPLETIONS = "/v1/chat/completions", "/tokenize", "/v1/completions"
CODER = ModelCard("Qwen/Qwen2.5-Coder-7B", max_model_len=2048)


def run(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    """Run the steps of `/api/generate`."""
    return play(generate(call("/api/generate", {"prompt": "hi", **body}, **changes)), *script)


def refusal(body: dict[str, Any], *script: Any, **changes: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        run(body, *script, **changes)
    return caught.value.error, caught.value.status_code


# Chat template


def test_prompt_becomes_user_message() -> None:
    played = run({}, chat_stream("Hi"))
    assert played.paths == [CHAT]
    assert played.payload["messages"] == [{"role": "user", "content": "hi"}]
    assert played.payload["return_token_ids"] is True


@pytest.mark.parametrize(
    ("body", "profile", "system"),
    [
        ({"system": "Own"}, {}, "Own"),
        ({}, {"system": "Arr"}, "Arr"),
        ({"system": "Own"}, {"system": "Arr"}, "Own"),
    ],
)
def test_system_prompt_is_first_message(body: dict[str, Any], profile: dict[str, Any], system: str) -> None:
    assert run(body, chat_stream("Hi"), profile=profile).payload["messages"] == [
        {"role": "system", "content": system},
        {"role": "user", "content": "hi"},
    ]


def test_images_are_content_of_user_message() -> None:
    content = run({"images": ["AAAA"]}, chat_stream("Hi")).payload["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_reply_has_response_and_context() -> None:
    first = choice(delta={"content": "Hi"}, prompt_token_ids=[1, 2], token_ids=[3])
    part = run({}, [first, delta("stop")]).parts[0]
    assert (part["response"], part["context"], part["done"]) == ("Hi", [1, 2, 3], True)
    assert "message" not in part


def test_stream_has_context_on_last_part() -> None:
    parts = run({"stream": True}, chat_stream("Hel", "lo")).parts
    assert [part["response"] for part in parts] == ["Hel", "lo", ""]
    assert ["context" in part for part in parts] == [False, False, True]


def test_reply_has_thinking_field() -> None:
    script = [delta(reasoning="Hm"), delta(content="Hi"), delta("stop")]
    part = run({"think": True}, tokens(1, 2), tokens(1), tokens(1), script).parts[0]
    assert (part["thinking"], part["response"]) == ("Hm", "Hi")


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (0, "unload")])
def test_empty_prompt_loads_or_unloads_without_request(keep_alive: Any, reason: str) -> None:
    assert run({"prompt": "", "keep_alive": keep_alive}).parts == [
        {"model": "smol", "created_at": STAMP, "response": "", "done": True, "done_reason": reason}
    ]


# Raw


def test_raw_prompt_is_sent_unchanged() -> None:
    played = run({"raw": True}, completion_stream("Hi"))
    assert played.paths == [COMPLETIONS]
    assert played.payload["prompt"] == "hi"
    assert played.parts[0]["response"] == "Hi"
    assert "context" not in played.parts[0]
    assert "return_token_ids" not in played.payload


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"options": {"stop": ["a"]}}, {"stop": ["a"]}),
        ({"options": {"stop": ["a"] * 5}}, {"stop": None}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({}, {"logprobs": None, "stop": None, "messages": None}),
    ],
)
def test_raw_request_has_translated_field(body: dict[str, Any], sent: dict[str, Any]) -> None:
    payload = run({"raw": True, **body}, completion_stream("Hi")).payload
    assert {key: payload.get(key) for key in sent} == sent


def test_middle_of_raw_prompt_is_cut() -> None:
    played = run(
        {"raw": True, "options": {"num_ctx": 8, "num_keep": 2}, "prompt": "x" * 99},
        tokens(*range(99)),
        completion_stream("Hi"),
    )
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.payload["prompt"] == [0, 1, 96, 97, 98]


def test_middle_of_raw_prompt_is_cut_when_server_rejects_length() -> None:
    played = run({"raw": True, "prompt": "x" * 9999}, TOO_LONG, tokens(*range(3000)), completion_stream("Hi"))
    assert played.paths == [COMPLETIONS, TOKENIZE, COMPLETIONS]
    assert len(played.payload["prompt"]) < 2048


# Context


def test_context_precedes_prompt() -> None:
    played = run({"context": [1, 2]}, tokens(3, 4), completion_stream("Hi"))
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.requests[0].payload == {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
    assert played.payload["prompt"] == [1, 2, 3, 4]
    assert "context" in played.parts[0]


def test_context_is_refused_without_tokenize() -> None:
    text, status = refusal({"context": [1]}, NO_SUCH_PATH)
    assert text.startswith("context is not available on vLLM")
    assert status == 501


def test_thinking_is_parsed_with_context() -> None:
    script = (tokens(1, 2), tokens(1), tokens(1), tokens(3), completion_stream("<think>Hm</think>", "Hi"))
    part = run({"context": [1, 2], "think": True}, *script).parts[0]
    assert (part.get("thinking"), part["response"]) == ("Hm", "Hi")


# Fill in the middle


def test_suffix_uses_infill_prompt_of_family() -> None:
    played = run({"prompt": "def f(", "suffix": "  return 1"}, completion_stream("x):\n"), card=CODER)
    assert played.paths == [COMPLETIONS]
    assert played.payload["prompt"] == "<|fim_prefix|>def f(<|fim_suffix|>  return 1<|fim_middle|>"
    assert played.parts[0]["response"] == "x):\n"


def test_infill_marker_of_family_ends_answer() -> None:
    assert run({"suffix": "b"}, [choice(text="x<|fim_pad|>y")], card=CODER).parts[0]["response"] == "x"


def test_infill_prompt_of_profile_applies() -> None:
    played = run({"suffix": "b{prefix}"}, completion_stream("x"), profile={"fim": "<A>{prefix}<B>{suffix}<C>"})
    assert played.payload["prompt"] == "<A>hi<B>b{prefix}<C>"


@pytest.mark.parametrize("changes", [{}, {"card": CODER, "profile": {"capabilities": ["completion"]}}])
def test_suffix_is_refused_when_model_has_no_infill(changes: dict[str, Any]) -> None:
    assert refusal({"suffix": "b"}, **changes) == (
        "registry.ollama.ai/library/smol:latest does not support insert",
        400,
    )


# Errors


@pytest.mark.parametrize("field", [{"template": "T"}, {"system": "S"}, {"context": [1]}])
def test_raw_with_template_system_or_context_is_refused(field: dict[str, Any]) -> None:
    assert refusal({"raw": True, **field}) == ("raw mode does not support template, system, or context", 400)


@pytest.mark.parametrize(
    ("body", "prefix"),
    [
        ({"template": "{{ .Prompt }}", "images": ["aGk="]}, "images with template is not available on vLLM"),
        ({"raw": True, "images": ["AAAA"]}, "images with raw is not available on vLLM"),
        ({"width": 512}, "image generation is not available on vLLM"),
        ({"steps": 4}, "image generation is not available on vLLM"),
    ],
)
def test_unsupported_field_is_refused(body: dict[str, Any], prefix: str) -> None:
    text, status = refusal(body)
    assert text.startswith(prefix)
    assert status == 501


@pytest.mark.parametrize("body", [{}, {"raw": True}])
def test_embedding_model_is_refused(body: dict[str, Any]) -> None:
    assert refusal(body, NO_SUCH_PATH) == ('"smol" does not support generate', 400)


@pytest.mark.parametrize(
    "body", [{"context": [1], "images": ["aGk="]}, {"raw": True, "suffix": "x"}, {"raw": True, "images": ["aGk="]}]
)
def test_incompatible_fields_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ResponseError, match="is not available on vLLM"):
        play(generate(call("/api/generate", {"prompt": "hi", **body})))
