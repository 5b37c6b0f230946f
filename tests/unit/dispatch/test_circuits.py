"""Calls and circuit breakers: which servers receive no request, and which results a breaker counts."""

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
    UNAUTHORIZED,
    UNREACHABLE,
    A,
    B,
    Client,
    FakeServers,
    content,
    urls,
)

SMOL, NO_MODELS = reply({"data": [{"id": "smol"}]}), reply({"data": []})
SLOW = httpx.ReadTimeout("slow")


class UnreachableForDiscovery(FakeServers):
    """Fake servers of which A is unreachable for discovery."""

    def __init__(self) -> None:
        super().__init__({A: (), B: ()})

    def model_list(self, base: str) -> Any:
        return UNREACHABLE if base == A else super().model_list(base)


class SleepingServers(FakeServers):
    """Fake servers with a clock that advances during each `Sleep`."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.serves)
        self._clock = client.clock

    def _answer(self, step: Any, lines: Any, events: Any) -> tuple[Any, Any]:
        if isinstance(step, Sleep):
            self._clock.now += int(step.seconds * SECOND)
        return super()._answer(step, lines, events)


def test_circuit_opens_after_five_consecutive_failures() -> None:
    client = Client(b=())
    for _ in range(5):
        client.failing_call(BOOM)
    played, error = client.failing_call()
    assert played.requests == []
    assert isinstance(error, CircuitOpen)
    assert f"{A} has failed 5 times in a row. Its circuit breaker sends it no request for another 10 s" in str(error)
    assert client.last.error == "circuit_open"


def test_timeouts_do_not_open_circuit_when_server_answered_recently() -> None:
    client = Client(b=())
    client.call(chat_stream(ANSWER))
    for _ in range(10):
        client.failing_call(SLOW)
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


def test_timeouts_do_not_open_circuit_when_discovery_succeeded_recently() -> None:
    client = Client(b=())
    client.dispatcher.registry.forget(client.dispatcher.registry.servers[0])
    for _ in range(10):
        client.failing_call(SLOW)
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


def test_timeouts_open_circuit_when_only_discovery_succeeds() -> None:
    client = Client(b=())
    client.call(chat_stream(ANSWER))
    client.clock.now += int(QUIET_S * SECOND)
    for _ in range(5):
        client.clock.now += SECOND
        play(client.dispatcher.registry.catalog(), SMOL, NO_MODELS)
        client.failing_call(SLOW)
    assert isinstance(client.failing_call()[1], CircuitOpen)


def test_timeouts_open_circuit_when_server_has_not_answered_recently() -> None:
    client = Client(b=())
    client.call(chat_stream(ANSWER))
    client.clock.now += int(QUIET_S * SECOND)
    for _ in range(5):
        client.failing_call(SLOW)
    assert isinstance(client.failing_call()[1], CircuitOpen)


@pytest.mark.parametrize(
    "error", [connections_exhausted(A, "Too many open files"), httpx.PoolTimeout("no connection is free")]
)
def test_local_connection_error_counts_neither_as_failure_nor_as_success(error: Exception) -> None:
    client = Client(b=())
    for _ in range(4):
        client.failing_call(BOOM)
        client.failing_call(error)
    client.failing_call(BOOM)
    assert isinstance(client.failing_call()[1], CircuitOpen)


def test_other_server_receives_calls_when_circuit_is_open() -> None:
    client = Client()
    for _ in range(5):
        client.call(BOOM, chat_stream(ANSWER))
    assert urls(client.call(chat_stream(ANSWER))) == [B + CHAT]
    assert client.last.failovers == 0, "A received no request, so this is no failover"


def test_fallback_answers_without_wait_when_circuit_is_open() -> None:
    client = Client(b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    for _ in range(5):
        client.call(BOOM, FROM_OLLAMA)
    played = client.call(FROM_OLLAMA)
    assert (urls(played), played.sleeps) == (["/api/chat"], [])


def test_call_that_opens_circuit_fails_without_wait() -> None:
    client = Client(b=())
    for _ in range(4):
        client.failing_call(BOOM)
    played, error = client.failing_call(LOADING)
    assert client.circuits_closed == [False, True]
    assert (urls(played), played.sleeps) == ([A + CHAT], [])
    assert "loading" in str(error), "the error is the failure, not the open circuit"


def test_call_that_opens_circuit_uses_fallback_without_wait() -> None:
    client = Client(b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    for _ in range(4):
        client.call(BOOM, FROM_OLLAMA)
    played = client.call(LOADING, FROM_OLLAMA)
    assert (urls(played), played.sleeps) == ([A + CHAT, "/api/chat"], [])


def test_call_whose_discovery_opens_circuit_fails_without_wait() -> None:
    client = Client(b=())
    client.dispatcher.registry.forget(client.dispatcher.registry.servers[0])
    for _ in range(4):
        client.dispatcher.registry.servers[0].record_failure(client.clock.now, UNREACHABLE)
    play = UnreachableForDiscovery()
    with pytest.raises(ServerUnreachable):
        client.call(play=play)
    assert client.circuits_closed == [False, True]
    assert play.sleeps == []


def test_call_that_opens_circuit_is_retried_when_wait_exceeds_open_time() -> None:
    client = Client(b=())
    for _ in range(4):
        client.failing_call(BOOM)
    slow = Reply(503, b"loading", retry_after=OPEN_S + 1)
    played = client.call(slow, chat_stream(ANSWER), play=SleepingServers(client))
    assert (content(played), played.sleeps) == (ANSWER, [OPEN_S + 1])


def test_successful_half_open_probe_closes_circuit() -> None:
    client = Client(b=())
    for _ in range(5):
        client.failing_call(BOOM)
    client.clock.now += 10 * SECOND
    probe = client.steps()
    next(probe)
    assert client.failing_call()[0].requests == [], "a half-open circuit admits one call"
    probe.send(None)
    for data in chat_stream(ANSWER):
        probe.send(data)
    probe.send(None)
    assert next(probe, None) is None
    assert client.circuits_closed == [True, True]
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


def test_cancelled_half_open_probe_admits_next_probe() -> None:
    client = Client(b=())
    for _ in range(5):
        client.failing_call(BOOM)
    client.clock.now += 10 * SECOND
    probe = client.steps()
    next(probe)
    probe.close()
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


def test_half_open_probe_succeeds_when_cancelled_during_answer() -> None:
    client = Client(b=())
    for _ in range(5):
        client.failing_call(BOOM)
    client.clock.now += 10 * SECOND
    probe = client.steps(stream=True)
    for outcome in (None, None, *chat_stream(ANSWER)[:2]):
        probe.send(outcome)
    probe.close()
    assert client.circuits_closed == [True, True]
    assert client.last.error == "cancelled"


@pytest.mark.parametrize("failure", [refused("bad", 400), UNAUTHORIZED, refused("bad", 422)])
def test_request_error_does_not_count_as_server_failure(failure: Reply) -> None:
    client = Client(b=())
    for _ in range(10):
        client.failing_call(failure)
    assert client.circuits_closed == [True, True]
    assert client.dispatcher.registry.servers[0].breaker.failures == 0


def test_busy_reply_does_not_count_as_server_failure() -> None:
    client = Client(b=())
    for _ in range(3):
        client.failing_call(BUSY, BUSY, BUSY)
    assert client.circuits_closed == [True, True]


def test_provider_has_separate_circuit() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("deepseek:deepseek-chat", "other")})
    for _ in range(4):
        client.failing_call(BOOM, BOOM, refused("bad", 400))
    client.call(BOOM, BOOM, chat_stream(ANSWER))
    played = client.call(chat_stream(ANSWER))
    assert urls(played) == [B + CHAT], "the circuits of A and of the provider are open"
