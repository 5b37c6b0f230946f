"""A call and the circuit breakers: which servers it leaves alone, and what it tells them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ollama_compat.exceptions import CircuitOpen, ServerUnreachable
from ollama_compat.mapping.errors import connections_exhausted
from ollama_compat.servers.circuit_breaker import OPEN_S, QUIET_S
from ollama_compat.steps import Reply, Sleep
from tests.play import SECOND, chat_stream, play, refused, reply
from tests.unit.dispatch.client import (
    ANSWER,
    BOOM,
    BUSY,
    CHAT,
    FROM_OLLAMA,
    LOADING,
    REFUSES,
    UNAUTHORIZED,
    A,
    B,
    Client,
    Servers,
    asked,
    content,
)

SMOL, NOTHING = reply({"data": [{"id": "smol"}]}), reply({"data": []})
SLOW = httpx.ReadTimeout("slow")


class Nobody(Servers):
    """A playing in which server A is not there when it is asked what it serves."""

    def __init__(self) -> None:
        super().__init__({A: (), B: ()})

    def told(self, base: str) -> Any:
        return REFUSES if base == A else super().told(base)


class Sleeper(Servers):
    """A playing in which time passes while it is slept."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.serves)
        self._clock = client.clock

    def _answer(self, step: Any, lines: Any, events: Any) -> tuple[Any, Any]:
        if isinstance(step, Sleep):
            self._clock.now += int(step.seconds * SECOND)
        return super()._answer(step, lines, events)


def test_after_five_failures_in_a_row_a_server_is_left_alone() -> None:
    client = Client(b=())
    for _ in range(5):
        client.fails(BOOM)
    played, error = client.fails()
    assert played.requests == []
    assert isinstance(error, CircuitOpen)
    assert f"{A} has failed 5 times in a row. Its circuit breaker sends it no request for another 10 s" in str(error)
    assert client.last.error == "circuit_open"


def test_callers_in_a_hurry_do_not_keep_the_others_from_a_server_that_answers_them() -> None:
    client = Client(b=())
    client.ask(chat_stream(ANSWER))
    for _ in range(10):
        client.fails(SLOW)
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


def test_a_server_that_has_just_said_what_it_serves_is_not_left_alone_for_callers_in_a_hurry() -> None:
    client = Client(b=())
    client.made.registry.forget(client.made.registry.servers[0])
    for _ in range(10):
        client.fails(SLOW)
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


def test_a_server_that_says_what_it_serves_and_hangs_in_every_call_is_left_alone() -> None:
    client = Client(b=())
    client.ask(chat_stream(ANSWER))
    client.clock.now += int(QUIET_S * SECOND)
    for _ in range(5):
        client.clock.now += SECOND
        play(client.made.registry.catalog(), SMOL, NOTHING)
        client.fails(SLOW)
    assert isinstance(client.fails()[1], CircuitOpen)


def test_a_server_that_answers_nobody_for_a_while_is_left_alone() -> None:
    client = Client(b=())
    client.ask(chat_stream(ANSWER))
    client.clock.now += int(QUIET_S * SECOND)
    for _ in range(5):
        client.fails(SLOW)
    assert isinstance(client.fails()[1], CircuitOpen)


@pytest.mark.parametrize(
    "error", [connections_exhausted(A, "Too many open files"), httpx.PoolTimeout("no connection is free")]
)
def test_what_is_this_sides_own_is_neither_a_failure_of_the_server_nor_a_success(error: Exception) -> None:
    client = Client(b=())
    for _ in range(4):
        client.fails(BOOM)
        client.fails(error)
    client.fails(BOOM)
    assert isinstance(client.fails()[1], CircuitOpen)


def test_another_server_takes_its_calls() -> None:
    client = Client()
    for _ in range(5):
        client.ask(BOOM, chat_stream(ANSWER))
    assert asked(client.ask(chat_stream(ANSWER))) == [B + CHAT]
    assert client.last.failovers == 0, "it was not asked, so nobody stood in for it"


def test_what_stands_in_takes_its_calls_without_a_wait() -> None:
    client = Client(b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    for _ in range(5):
        client.ask(BOOM, FROM_OLLAMA)
    played = client.ask(FROM_OLLAMA)
    assert (asked(played), played.sleeps) == (["/api/chat"], [])


def test_a_call_that_opens_the_circuit_itself_fails_at_once() -> None:
    client = Client(b=())
    for _ in range(4):
        client.fails(BOOM)
    played, error = client.fails(LOADING)
    assert client.closed == [False, True]
    assert (asked(played), played.sleeps) == ([A + CHAT], [])
    assert "loading" in str(error), "it is told what failed, not that the circuit is open"


def test_a_call_that_opens_the_circuit_itself_goes_to_what_stands_in_at_once() -> None:
    client = Client(b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    for _ in range(4):
        client.ask(BOOM, FROM_OLLAMA)
    played = client.ask(LOADING, FROM_OLLAMA)
    assert (asked(played), played.sleeps) == ([A + CHAT, "/api/chat"], [])


def test_a_call_that_finds_nobody_and_so_opens_the_circuit_fails_at_once() -> None:
    client = Client(b=())
    client.made.registry.forget(client.made.registry.servers[0])
    for _ in range(4):
        client.made.registry.servers[0].record_failure(client.clock.now, REFUSES)
    play = Nobody()
    with pytest.raises(ServerUnreachable):
        client.ask(play=play)
    assert client.closed == [False, True]
    assert play.sleeps == []


def test_a_wait_that_is_longer_than_the_circuit_is_open_is_waited() -> None:
    client = Client(b=())
    for _ in range(4):
        client.fails(BOOM)
    slow = Reply(503, b"loading", retry_after=OPEN_S + 1)
    played = client.ask(slow, chat_stream(ANSWER), play=Sleeper(client))
    assert (content(played), played.sleeps) == (ANSWER, [OPEN_S + 1])


def test_after_ten_seconds_one_call_tries_it_and_its_success_closes_the_circuit() -> None:
    client = Client(b=())
    for _ in range(5):
        client.fails(BOOM)
    client.clock.now += 10 * SECOND
    trial = client.exchange()
    next(trial)
    assert client.fails()[0].requests == [], "there is one trial at a time"
    trial.send(None)
    for data in chat_stream(ANSWER):
        trial.send(data)
    trial.send(None)
    assert next(trial, None) is None
    assert client.closed == [True, True]
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


def test_a_trial_whose_caller_goes_away_makes_room_for_another() -> None:
    client = Client(b=())
    for _ in range(5):
        client.fails(BOOM)
    client.clock.now += 10 * SECOND
    trial = client.exchange()
    next(trial)
    trial.close()
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


def test_a_trial_whose_caller_goes_away_within_the_answer_has_succeeded() -> None:
    client = Client(b=())
    for _ in range(5):
        client.fails(BOOM)
    client.clock.now += 10 * SECOND
    trial = client.exchange(stream=True)
    for outcome in (None, None, *chat_stream(ANSWER)[:2]):
        trial.send(outcome)
    trial.close()
    assert client.closed == [True, True]
    assert client.last.error == "cancelled"


@pytest.mark.parametrize("failure", [refused("bad", 400), UNAUTHORIZED, refused("bad", 422)])
def test_a_question_that_is_wrong_is_no_failure_of_the_server(failure: Reply) -> None:
    client = Client(b=())
    for _ in range(10):
        client.fails(failure)
    assert client.closed == [True, True]
    assert client.made.registry.servers[0].breaker.failures == 0


def test_a_server_that_is_busy_is_no_broken_one() -> None:
    client = Client(b=())
    for _ in range(3):
        client.fails(BUSY, BUSY, BUSY)
    assert client.closed == [True, True]


def test_a_provider_has_a_circuit_of_its_own() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("deepseek:deepseek-chat", "other")})
    for _ in range(4):
        client.fails(BOOM, BOOM, refused("bad", 400))
    client.ask(BOOM, BOOM, chat_stream(ANSWER))
    played = client.ask(chat_stream(ANSWER))
    assert asked(played) == [B + CHAT], "A and the provider are both left alone"
