"""Attempts of one call: the remaining time, and a circuit that opens between discovery and the request."""

from __future__ import annotations

import pytest

from ollama_compat.attempts import Attempts, CallState
from ollama_compat.call import Progress
from ollama_compat.exceptions import CircuitOpen
from ollama_compat.servers.circuit_breaker import FAILURES
from ollama_compat.telemetry.call_record import CallRecord
from tests.play import SECOND, chat_stream
from tests.unit.dispatch.client import ANSWER, CHAT, UNREACHABLE, A, B, Client, content, urls


def attempts_of(client: Client, timeout_s: float | None = None) -> Attempts:
    """The attempts of a call that was admitted one second after the start of the clock."""
    dispatcher = client.dispatcher
    (backend,) = dispatcher.backends.chain("smol")
    state = CallState("/api/chat", {"model": "smol"}, timeout_s, CallRecord("chat", "smol", started=0), Progress())
    state.admitted_at = SECOND
    return Attempts(backend, state, dispatcher.registry, dispatcher.context, is_last=True)


@pytest.mark.parametrize(("timeout_s", "left_s"), [(None, None), (5.0, 3.0), (1.0, -1.0)])
def test_seconds_left_counts_from_admission(timeout_s: float | None, left_s: float | None) -> None:
    client = Client()
    client.clock.now = 3 * SECOND
    assert attempts_of(client, timeout_s).seconds_left() == left_s


def test_final_error_is_circuit_open_when_circuit_refuses_call() -> None:
    client = Client(b=())
    server = client.dispatcher.registry.servers[0]
    for _ in range(FAILURES):
        server.record_failure(client.clock.now, UNREACHABLE)
    attempts = attempts_of(client)
    attempts.circuit_refused(server)
    assert attempts.next_wait() is None
    assert isinstance(attempts.final_error(), CircuitOpen)


def test_other_server_answers_when_circuit_opens_after_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    registry = client.dispatcher.registry
    begin_request = registry.begin_request
    monkeypatch.setattr(registry, "begin_request", lambda server: server.url != A and begin_request(server))
    played = client.call(chat_stream(ANSWER))
    assert (urls(played), content(played)) == ([B + CHAT], ANSWER)
