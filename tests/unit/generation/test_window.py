"""Fitting a conversation or a prompt to the context window."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.generation.prompts import ChatPrompt, text_fits
from ollama_compat.generation.reader import ReplyFormat
from ollama_compat.generation.thinking_plan import ThinkingPlan
from ollama_compat.generation.window import cut_middle, fit, without_oldest
from ollama_compat.mapping.messages import joined, to_openai
from ollama_compat.steps import Steps
from tests.play import NO_SUCH_PATH, Play, call, play, refused, tokens


def messages(roles: str) -> list[dict[str, Any]]:
    """Messages of the roles with these first letters, numbered."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[letter], "content": str(number)} for number, letter in enumerate(roles)]


def numbers(kept: Any) -> str:
    return "".join(message["content"] for message in kept)


@pytest.mark.parametrize(
    ("roles", "number", "kept"),
    [("uau", 0, "012"), ("uau", 1, "12"), ("suau", 2, "023"), ("suasu", 4, "034"), ("uau", 2, "2")],
)
def test_oldest_messages_are_dropped_and_system_messages_stay(roles: str, number: int, kept: str) -> None:
    assert numbers(without_oldest(messages(roles), number)) == kept


def prompt(conversation: list[dict[str, Any]], **fields: Any) -> ChatPrompt:
    return ChatPrompt(conversation, ReplyFormat("message"), **fields)


def fitted(conversation: list[dict[str, Any]], limit: int, *script: Any, window: int = 2048) -> Play:
    return play(fit(call("/api/chat"), prompt(conversation), limit=limit, window=window, keep=4), *script)


def run_with_five_tokens_a_message(steps: Steps[Any]) -> Any:
    outcome = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome = tokens(*range(5 * len(step.request.payload["messages"])))


def joined_roles(text: str) -> bool:
    """Whether two consecutive messages have one role: the prompt sends them as one."""
    return any(first == second != "t" for first, second in pairwise(text))


@given(st.text("suat", min_size=1, max_size=9).filter(lambda roles: not joined_roles(roles)), st.integers(1, 40))
def test_fit_drops_as_few_messages_as_possible_and_keeps_the_last_one(roles: str, limit: int) -> None:
    conversation = messages(roles)
    steps = fit(call("/api/chat"), prompt(conversation), limit=limit, window=2048, keep=4)
    choices = [without_oldest(conversation, number) for number in range(len(conversation))]
    fitting = [kept for kept in choices if 5 * len(to_openai(joined(kept))) <= limit]
    assert numbers(run_with_five_tokens_a_message(steps).messages) == numbers([*fitting, choices[-1]][0])


def test_fit_counts_a_single_message_once() -> None:
    played = fitted(messages("u"), 1, tokens(1))
    assert numbers(played.result.messages) == "0"


def test_fit_returns_the_prompt_unchanged_when_the_server_does_not_count() -> None:
    played = fitted(messages("uau"), 1, NO_SUCH_PATH, NO_SUCH_PATH)
    assert numbers(played.result.messages) == "012"


def test_tokenize_receives_no_field_that_it_does_not_support() -> None:
    plan = ThinkingPlan({"reasoning_effort": "low", "chat_template_kwargs": {"thinking": True}})
    chat = ChatPrompt(messages("u"), ReplyFormat("message", plan))
    played = play(fit(call("/api/chat"), chat, limit=9, window=2048, keep=4), tokens(1))
    assert played.payload == {
        "model": "smol",
        "messages": [{"role": "user", "content": "0"}],
        "chat_template_kwargs": {"thinking": True},
    }


@pytest.mark.parametrize(
    ("content", "limit", "fits"),
    [("x" * 100, 300, True), ("x" * 100, 150, False), ("한" * 100, 300, False), ("", 150, True)],
)
def test_chat_surely_fits_when_it_has_fewer_bytes_than_the_limit(content: str, limit: int, fits: bool) -> None:
    assert prompt([{"role": "user", "content": content}]).surely_fits(limit) is fits


def test_tools_count_as_bytes_and_images_never_surely_fit() -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "description": "x" * 1000}}
    assert not prompt([{"role": "user", "content": ""}], tools=(tool,)).surely_fits(1000)
    assert not prompt([{"role": "user", "content": "", "images": ["aGk="]}]).surely_fits(10**9)


def test_conversation_that_the_chat_template_refuses_does_not_fit() -> None:
    """Many templates require that a conversation starts with a user message."""
    script = [tokens(*range(9)), refused("roles must alternate"), tokens(1)]
    played = fitted(messages("uauau"), 5, *script)
    assert [len(request.payload["messages"]) for request in played.requests if request.payload] == [3, 2, 1]
    assert numbers(played.result.messages) == "4"


def test_too_long_chat_with_tools_is_refused_with_ollamas_error() -> None:
    tool: Any = {"type": "function", "function": {"name": "f"}}
    steps = fit(call("/api/chat"), prompt(messages("u"), tools=(tool,)), limit=4, window=8, keep=4)
    with pytest.raises(ResponseError, match="exceeds the available context size") as caught:
        play(steps, tokens(*range(9)))
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("window", "keep", "kept"),
    [
        (20, 4, list(range(10))),
        (11, 4, list(range(10))),
        (10, 4, [0, 1, 2, 3, 7, 8, 9]),
        (8, 4, [0, 1, 2, 3, 8, 9]),
        (8, 0, [6, 7, 8, 9]),
        (8, -1, [0, 1, 2, 3, 4, 5, 6]),
        (8, 99, [0, 1, 2, 3, 4, 5, 6]),
        (1, 4, list(range(10))),
    ],
)
def test_cut_middle_keeps_first_and_last_tokens(window: int, keep: int, kept: list[int]) -> None:
    assert cut_middle(range(10), window, keep) == kept


@given(st.integers(0, 60), st.integers(2, 40), st.integers(-2, 50))
def test_cut_prompt_leaves_room_for_answer(length: int, window: int, keep: int) -> None:
    kept = cut_middle(range(length), window, keep)
    assert len(kept) < window
    assert kept == sorted(kept)
    assert kept[-1:] == list(range(length))[-1:] or keep < 0 or keep >= window - 2


@pytest.mark.parametrize(("text", "limit", "known"), [("x" * 9, 10, True), ("x" * 10, 10, False), ("한" * 3, 9, False)])
def test_text_fits_when_it_has_fewer_bytes_than_limit(text: str, limit: int, known: bool) -> None:
    assert text_fits(text, limit) is known
