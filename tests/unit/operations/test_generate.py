"""`/api/generate`: through the chat template, raw, after a context, in the middle."""

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


def ask(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    """The playing of a generation."""
    return play(generate(call("/api/generate", {"prompt": "hi", **body}, **changes)), *script)


def refusal(body: dict[str, Any], *script: Any, **changes: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        ask(body, *script, **changes)
    return caught.value.error, caught.value.status_code


# Through the template


def test_a_prompt_is_a_user_message() -> None:
    played = ask({}, chat_stream("Hi"))
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
def test_a_system_prompt_goes_first(body: dict[str, Any], profile: dict[str, Any], system: str) -> None:
    assert ask(body, chat_stream("Hi"), profile=profile).payload["messages"] == [
        {"role": "system", "content": system},
        {"role": "user", "content": "hi"},
    ]


def test_images_are_the_messages() -> None:
    content = ask({"images": ["AAAA"]}, chat_stream("Hi")).payload["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_an_answer_is_a_response_with_its_context() -> None:
    first = choice(delta={"content": "Hi"}, prompt_token_ids=[1, 2], token_ids=[3])
    part = ask({}, [first, delta("stop")]).parts[0]
    assert (part["response"], part["context"], part["done"]) == ("Hi", [1, 2, 3], True)
    assert "message" not in part


def test_a_stream_has_its_context_on_the_last_part() -> None:
    parts = ask({"stream": True}, chat_stream("Hel", "lo")).parts
    assert [part["response"] for part in parts] == ["Hel", "lo", ""]
    assert ["context" in part for part in parts] == [False, False, True]


def test_thoughts_are_a_field_beside_the_response() -> None:
    script = [delta(reasoning="Hm"), delta(content="Hi"), delta("stop")]
    part = ask({"think": True}, tokens(1, 2), tokens(1), tokens(1), script).parts[0]
    assert (part["thinking"], part["response"]) == ("Hm", "Hi")


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (0, "unload")])
def test_no_prompt_is_no_work(keep_alive: Any, reason: str) -> None:
    assert ask({"prompt": "", "keep_alive": keep_alive}).parts == [
        {"model": "smol", "created_at": STAMP, "response": "", "done": True, "done_reason": reason}
    ]


# Raw


def test_a_raw_prompt_is_completed_as_it_is() -> None:
    played = ask({"raw": True}, completion_stream("Hi"))
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
def test_what_else_a_completion_says(body: dict[str, Any], sent: dict[str, Any]) -> None:
    payload = ask({"raw": True, **body}, completion_stream("Hi")).payload
    assert {key: payload.get(key) for key in sent} == sent


def test_a_raw_prompt_that_does_not_fit_loses_its_middle() -> None:
    played = ask(
        {"raw": True, "options": {"num_ctx": 8, "num_keep": 2}, "prompt": "x" * 99},
        tokens(*range(99)),
        completion_stream("Hi"),
    )
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.payload["prompt"] == [0, 1, 96, 97, 98]


def test_a_raw_prompt_that_the_server_finds_too_long_loses_its_middle() -> None:
    played = ask({"raw": True, "prompt": "x" * 9999}, TOO_LONG, tokens(*range(3000)), completion_stream("Hi"))
    assert played.paths == [COMPLETIONS, TOKENIZE, COMPLETIONS]
    assert len(played.payload["prompt"]) < 2048


# After a context


def test_a_prompt_goes_after_its_context() -> None:
    played = ask({"context": [1, 2]}, tokens(3, 4), completion_stream("Hi"))
    assert played.paths == [TOKENIZE, COMPLETIONS]
    assert played.requests[0].payload == {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
    assert played.payload["prompt"] == [1, 2, 3, 4]
    assert "context" in played.parts[0]


def test_a_context_on_a_server_without_tokenize_is_refused() -> None:
    text, status = refusal({"context": [1]}, NO_SUCH_PATH)
    assert text.startswith("context is not available on vLLM")
    assert status == 501


def test_a_thinking_models_thoughts_are_told_after_a_context_too() -> None:
    script = (tokens(1, 2), tokens(1), tokens(1), tokens(3), completion_stream("<think>Hm</think>", "Hi"))
    part = ask({"context": [1, 2], "think": True}, *script).parts[0]
    assert (part.get("thinking"), part["response"]) == ("Hm", "Hi")


# In the middle


def test_a_suffix_is_the_familys_prompt() -> None:
    played = ask({"prompt": "def f(", "suffix": "  return 1"}, completion_stream("x):\n"), card=CODER)
    assert played.paths == [COMPLETIONS]
    assert played.payload["prompt"] == "<|fim_prefix|>def f(<|fim_suffix|>  return 1<|fim_middle|>"
    assert played.parts[0]["response"] == "x):\n"


def test_the_familys_marks_end_the_answer() -> None:
    assert ask({"suffix": "b"}, [choice(text="x<|fim_pad|>y")], card=CODER).parts[0]["response"] == "x"


def test_a_profile_may_have_a_prompt_of_its_own() -> None:
    played = ask({"suffix": "b{prefix}"}, completion_stream("x"), profile={"fim": "<A>{prefix}<B>{suffix}<C>"})
    assert played.payload["prompt"] == "<A>hi<B>b{prefix}<C>"


@pytest.mark.parametrize("changes", [{}, {"card": CODER, "profile": {"capabilities": ["completion"]}}])
def test_a_suffix_on_a_model_that_cant_is_ollamas_refusal(changes: dict[str, Any]) -> None:
    assert refusal({"suffix": "b"}, **changes) == (
        "registry.ollama.ai/library/smol:latest does not support insert",
        400,
    )


# Refusals


@pytest.mark.parametrize("field", [{"template": "T"}, {"system": "S"}, {"context": [1]}])
def test_raw_with_what_a_template_needs_is_ollamas_refusal(field: dict[str, Any]) -> None:
    assert refusal({"raw": True, **field}) == ("raw mode does not support template, system, or context", 400)


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"template": "{{ .Prompt }}", "images": ["aGk="]}, "images with template is not available on vLLM"),
        ({"raw": True, "images": ["AAAA"]}, "images with raw is not available on vLLM"),
        ({"width": 512}, "image generation is not available on vLLM"),
        ({"steps": 4}, "image generation is not available on vLLM"),
    ],
)
def test_what_vllm_cant_do_is_refused_and_not_ignored(body: dict[str, Any], begins: str) -> None:
    text, status = refusal(body)
    assert text.startswith(begins)
    assert status == 501


@pytest.mark.parametrize("body", [{}, {"raw": True}])
def test_an_embedding_model_is_ollamas_refusal(body: dict[str, Any]) -> None:
    assert refusal(body, NO_SUCH_PATH) == ('"smol" does not support generate', 400)


@pytest.mark.parametrize(
    "body", [{"context": [1], "images": ["aGk="]}, {"raw": True, "suffix": "x"}, {"raw": True, "images": ["aGk="]}]
)
def test_fields_that_cant_go_together_are_refused_and_not_dropped(body: dict[str, Any]) -> None:
    with pytest.raises(ResponseError, match="is not available on vLLM"):
        play(generate(call("/api/generate", {"prompt": "hi", **body})))
