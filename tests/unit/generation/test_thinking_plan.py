"""Whether a call thinks, and what is asked of the server to find out."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.call import ClientContext
from ollama_compat.generation.thinking_plan import ThinkingPlan, plan_thinking, resolve_reasoning
from ollama_compat.mapping.vllm_schema import ModelCard
from tests.play import NO_SUCH_PATH, FakeClock, Play, call, play, tokens

QWEN, EXAONE, R1, SMOL = (
    ModelCard("Qwen/Qwen3-8B"),
    ModelCard("LGAI-EXAONE/EXAONE-4.0-32B-AWQ"),
    ModelCard("deepseek-r1"),
    ModelCard("smol"),
)
ON, OFF = {"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": {"enable_thinking": False}}

# What a template renders with thinking on, with thinking off, and unasked.
REACTS = (tokens(1, 2), tokens(1), tokens(1))
IGNORES = (tokens(1), tokens(1), tokens(1))
OPENS = (tokens(1, 2, strings=["a", "<think>", "Ċ"]), tokens(1), tokens(1, 2, strings=["<think>"]))
ALWAYS_OPENS = (tokens(1, strings=["<th", "ink>", "\n"]),) * 3


def settled(card: ModelCard, think: Any, *script: Any, **changes: Any) -> Play:
    """The playing of it."""
    return play(plan_thinking(call("/api/chat", {"think": think}, card=card, **changes)), *script)


def found(card: ModelCard, think: Any, *script: Any, **changes: Any) -> ThinkingPlan:
    """What was found."""
    result: ThinkingPlan = settled(card, think, *script, **changes).result
    return result


@pytest.mark.parametrize(
    ("card", "think", "payload"), [(EXAONE, None, OFF), (EXAONE, False, OFF), (QWEN, False, OFF), (SMOL, False, OFF)]
)
def test_thinking_is_turned_off_without_asking_the_server(card: ModelCard, think: bool | None, payload: Any) -> None:
    seen = found(card, think)
    assert (seen.fields, seen.parse, seen.possible) == (payload, False, False)


@pytest.mark.parametrize("card", [EXAONE, QWEN, SMOL])
def test_with_thinking_off_what_a_parser_calls_a_thought_is_the_answer(card: ModelCard) -> None:
    assert found(card, False).reasoning == "answer"


def test_who_cant_be_switched_off_thinks_all_the_same() -> None:
    seen = found(R1, False, *ALWAYS_OPENS)
    assert (seen.parse, seen.opened, seen.possible, seen.reasoning) == (True, True, True, "thinking")


@pytest.mark.parametrize("think", [True, "high"])
def test_a_family_that_does_not_think_is_refused_as_ollama_does(think: Any) -> None:
    with pytest.raises(ResponseError, match='"smol" does not support thinking'):
        found(ModelCard("Qwen/Qwen3-30B-A3B-Instruct-2507"), think)


@pytest.mark.parametrize(("card", "think"), [(QWEN, None), (QWEN, True), (EXAONE, True), (SMOL, True)])
def test_thinking_is_turned_on(card: ModelCard, think: bool | None) -> None:
    seen = found(card, think, *REACTS)
    assert (seen.fields, seen.parse, seen.possible, seen.reasoning) == (ON, True, True, "thinking")


@pytest.mark.parametrize(("script", "opened"), [(REACTS, False), (OPENS, True), (ALWAYS_OPENS, True)])
def test_a_template_that_opens_the_thought_is_noticed(script: Any, opened: bool) -> None:
    assert found(QWEN, True, *script).opened is opened


def test_the_template_is_asked_with_thinking_on_with_it_off_and_without_a_word() -> None:
    played = settled(QWEN, True, *REACTS)
    assert played.paths == ["/tokenize"] * 3
    assert [(request.payload or {}).get("chat_template_kwargs") for request in played.requests] == [
        {"enable_thinking": True},
        {"enable_thinking": False},
        None,
    ]


def test_the_template_is_asked_once_for_a_model() -> None:
    context = ClientContext(FakeClock())
    settled(QWEN, True, *REACTS, context=context)
    assert settled(QWEN, True, context=context).requests == []


def test_a_server_that_has_no_tokenize_is_believed_to_think() -> None:
    seen = found(QWEN, True, *[NO_SUCH_PATH] * 3)
    assert (seen.fields, seen.opened) == (ON, False)


def test_a_level_is_sent_on() -> None:
    assert found(ModelCard("openai/gpt-oss-20b"), "low", *REACTS).fields == {"reasoning_effort": "low"}


def test_think_on_a_model_that_cant_is_ollamas_refusal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ResponseError) as caught:
        found(SMOL, True, *IGNORES)
    assert (caught.value.error, caught.value.status_code) == ('"smol" does not support thinking', 400)
    assert "its chat template does not read enable_thinking" in caplog.text


@pytest.mark.parametrize("think", [True, "high"])
def test_think_on_a_profile_that_cant_is_refused_without_asking_the_server(think: Any) -> None:
    with pytest.raises(ResponseError, match='"smol" does not support thinking'):
        found(QWEN, think, profile={"capabilities": ["completion"]})


@pytest.mark.parametrize("think", [None, False])
def test_a_profile_that_cant_think_is_not_made_to(think: bool | None) -> None:
    seen = found(QWEN, think, profile={"capabilities": ["completion"]})
    assert not seen.possible


def test_nothing_is_said_to_a_model_that_nobody_knows() -> None:
    seen = found(SMOL, None)
    assert (seen.fields, seen.parse, seen.reasoning) == ({}, True, "unknown")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (REACTS, "answer"),
        ((tokens(1, 2), tokens(1), tokens(1, 2)), "thinking"),
        (ALWAYS_OPENS, "thinking"),
        (IGNORES, "unknown"),
        ([NO_SUCH_PATH] * 3, "unknown"),
    ],
)
def test_what_such_a_model_reasons_is_settled_by_its_template(script: Any, kind: str) -> None:
    style = found(SMOL, None).style
    assert style is not None
    assert play(resolve_reasoning(call("/api/chat", card=SMOL), style), *script).result == kind
