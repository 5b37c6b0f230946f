"""The thinking plan of a call, and the requests that determine it."""

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

# The replies of /tokenize with thinking on, with thinking off, and without the field.
REACTS = (tokens(1, 2), tokens(1), tokens(1))
IGNORES = (tokens(1), tokens(1), tokens(1))
OPENS = (tokens(1, 2, strings=["a", "<think>", "Ċ"]), tokens(1), tokens(1, 2, strings=["<think>"]))
ALWAYS_OPENS = (tokens(1, strings=["<th", "ink>", "\n"]),) * 3


def run(card: ModelCard, think: Any, *script: Any, **changes: Any) -> Play:
    """Run the steps that plan the thinking."""
    return play(plan_thinking(call("/api/chat", {"think": think}, card=card, **changes)), *script)


def plan_of(card: ModelCard, think: Any, *script: Any, **changes: Any) -> ThinkingPlan:
    """The plan that the steps return."""
    result: ThinkingPlan = run(card, think, *script, **changes).result
    return result


@pytest.mark.parametrize(
    ("card", "think", "payload"), [(EXAONE, None, OFF), (EXAONE, False, OFF), (QWEN, False, OFF), (SMOL, False, OFF)]
)
def test_thinking_is_turned_off_without_request(card: ModelCard, think: bool | None, payload: Any) -> None:
    plan = plan_of(card, think)
    assert (plan.fields, plan.parse, plan.possible) == (payload, False, False)


@pytest.mark.parametrize("card", [EXAONE, QWEN, SMOL])
def test_reasoning_is_answer_when_thinking_is_off(card: ModelCard) -> None:
    assert plan_of(card, False).reasoning == "answer"


def test_model_without_switch_thinks_when_think_is_false() -> None:
    plan = plan_of(R1, False, *ALWAYS_OPENS)
    assert (plan.parse, plan.opened, plan.possible, plan.reasoning) == (True, True, True, "thinking")


@pytest.mark.parametrize("think", [True, "high"])
def test_think_is_refused_when_family_does_not_think(think: Any) -> None:
    with pytest.raises(ResponseError, match='"smol" does not support thinking'):
        plan_of(ModelCard("Qwen/Qwen3-30B-A3B-Instruct-2507"), think)


@pytest.mark.parametrize(("card", "think"), [(QWEN, None), (QWEN, True), (EXAONE, True), (SMOL, True)])
def test_thinking_is_turned_on_with_field_of_family(card: ModelCard, think: bool | None) -> None:
    plan = plan_of(card, think, *REACTS)
    assert (plan.fields, plan.parse, plan.possible, plan.reasoning) == (ON, True, True, "thinking")


@pytest.mark.parametrize(("script", "opened"), [(REACTS, False), (OPENS, True), (ALWAYS_OPENS, True)])
def test_plan_knows_whether_template_opens_thinking(script: Any, opened: bool) -> None:
    assert plan_of(QWEN, True, *script).opened is opened


def test_template_is_rendered_with_thinking_on_off_and_unset() -> None:
    played = run(QWEN, True, *REACTS)
    assert played.paths == ["/tokenize"] * 3
    assert [(request.payload or {}).get("chat_template_kwargs") for request in played.requests] == [
        {"enable_thinking": True},
        {"enable_thinking": False},
        None,
    ]


def test_template_is_rendered_once_for_each_model() -> None:
    context = ClientContext(FakeClock())
    run(QWEN, True, *REACTS, context=context)
    assert run(QWEN, True, context=context).requests == []


def test_thinking_is_assumed_without_tokenize() -> None:
    plan = plan_of(QWEN, True, *[NO_SUCH_PATH] * 3)
    assert (plan.fields, plan.opened) == (ON, False)


def test_level_is_sent_as_reasoning_effort() -> None:
    assert plan_of(ModelCard("openai/gpt-oss-20b"), "low", *REACTS).fields == {"reasoning_effort": "low"}


def test_think_is_refused_when_template_ignores_switch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ResponseError) as caught:
        plan_of(SMOL, True, *IGNORES)
    assert (caught.value.error, caught.value.status_code) == ('"smol" does not support thinking', 400)
    assert "its chat template does not read enable_thinking" in caplog.text


@pytest.mark.parametrize("think", [True, "high"])
def test_think_is_refused_without_request_when_profile_has_no_thinking(think: Any) -> None:
    with pytest.raises(ResponseError, match='"smol" does not support thinking'):
        plan_of(QWEN, think, profile={"capabilities": ["completion"]})


@pytest.mark.parametrize("think", [None, False])
def test_profile_without_thinking_capability_does_not_think(think: bool | None) -> None:
    plan = plan_of(QWEN, think, profile={"capabilities": ["completion"]})
    assert not plan.possible


def test_unknown_model_receives_no_thinking_field() -> None:
    plan = plan_of(SMOL, None)
    assert (plan.fields, plan.parse, plan.reasoning) == ({}, True, "unknown")


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
def test_template_resolves_reasoning_of_unknown_model(script: Any, kind: str) -> None:
    style = plan_of(SMOL, None).style
    assert style is not None
    assert play(resolve_reasoning(call("/api/chat", card=SMOL), style), *script).result == kind
