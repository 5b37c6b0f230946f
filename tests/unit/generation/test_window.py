"""What is left of a conversation, or of a prompt, that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.generation.window import cut, fits, prompt_fits, shorten, without_oldest
from ollama_compat.steps import Steps
from tests.play import NO_SUCH_PATH, call, play, refused, tokens


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
def test_the_oldest_go_and_system_messages_stay(roles: str, number: int, kept: str) -> None:
    assert numbers(without_oldest(messages(roles), number)) == kept


def played_by_a_server_of_five_tokens_a_message(exchange: Steps[Any]) -> Any:
    outcome = None
    while True:
        try:
            step = exchange.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome = tokens(*range(5 * len(step.request.payload["messages"])))


@given(st.text("suat", min_size=1, max_size=9), st.integers(1, 40))
def test_as_few_as_possible_go_and_the_last_one_stays(roles: str, limit: int) -> None:
    conversation = messages(roles)
    exchange = shorten(call("/api/chat"), conversation, lambda kept: {"messages": list(kept)}, limit)
    choices = [without_oldest(conversation, number) for number in range(len(conversation))]
    fitting = [kept for kept in choices if 5 * len(kept) <= limit]
    assert played_by_a_server_of_five_tokens_a_message(exchange) == [*fitting, choices[-1]][0]


def test_one_message_is_not_counted() -> None:
    assert play(shorten(call("/api/chat"), messages("u"), lambda _: {}, 1)).result == messages("u")


def test_a_server_that_does_not_count_gets_all_of_it() -> None:
    played = play(shorten(call("/api/chat"), messages("uau"), lambda _: {}, 1), NO_SUCH_PATH)
    assert played.result == messages("uau")


def test_what_tokenize_does_not_know_is_not_sent_to_it() -> None:
    render = {"messages": [], "reasoning_effort": "low", "chat_template_kwargs": {"thinking": True}}
    played = play(shorten(call("/api/chat"), messages("ua"), lambda _: render, 9), tokens(1))
    assert played.payload == {"model": "smol", "messages": [], "chat_template_kwargs": {"thinking": True}}


@pytest.mark.parametrize(
    ("content", "limit", "fitting"),
    [("x" * 100, 300, True), ("x" * 100, 150, False), ("한" * 100, 300, False), ("", 150, True)],
)
def test_a_token_has_at_least_one_byte(content: str, limit: int, fitting: bool) -> None:
    assert fits({"messages": [{"role": "user", "content": content}]}, limit) is fitting


def test_tools_count_and_images_are_never_known_to_fit() -> None:
    rendered = {"messages": [{"role": "user", "content": ""}], "tools": [{"description": "x" * 1000}]}
    assert not fits(rendered, 1000)
    assert not fits({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 10**9)


def test_what_a_template_refuses_does_not_fit() -> None:
    """Many templates want a conversation to begin with a question."""
    script = [tokens(*range(9)), refused("roles must alternate")]
    played = play(shorten(call("/api/chat"), messages("uauau"), lambda kept: {"n": len(kept)}, 5), *script)
    assert [request.payload["n"] for request in played.requests if request.payload] == [3, 2]
    assert numbers(played.result) == "4"


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
def test_the_first_tokens_and_the_last_ones_stay(window: int, keep: int, kept: list[int]) -> None:
    assert cut(range(10), window, keep) == kept


@given(st.integers(0, 60), st.integers(2, 40), st.integers(-2, 50))
def test_what_is_cut_fits_with_room_for_an_answer(length: int, window: int, keep: int) -> None:
    kept = cut(range(length), window, keep)
    assert len(kept) < window
    assert kept == sorted(kept)
    assert kept[-1:] == list(range(length))[-1:] or keep < 0 or keep >= window - 2


@pytest.mark.parametrize(
    ("prompt", "limit", "known"), [("x" * 9, 10, True), ("x" * 10, 10, False), ("한" * 3, 9, False)]
)
def test_a_prompt_that_surely_fits(prompt: str, limit: int, known: bool) -> None:
    assert prompt_fits(prompt, limit) is known
