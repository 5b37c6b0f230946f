"""Telemetry of a call: statistics, observers, log lines."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from ollama_compat.exceptions import RateLimited
from ollama_compat.mapping.errors import incomplete_reply
from ollama_compat.steps import Reply
from ollama_compat.telemetry.call_record import CallRecord
from ollama_compat.telemetry.observers import Observers
from tests.play import SECOND, Play, chat_stream, delta, refused, reply
from tests.unit.dispatch.client import (
    ANSWER,
    BOOM,
    BUSY,
    FROM_OLLAMA,
    LOADING,
    PROMPT,
    UNAUTHORIZED,
    UNREACHABLE,
    A,
    B,
    Client,
    RecordingObserver,
    content,
)

# Statistics


def test_stats_count_answered_call_with_retries_failovers_and_tokens() -> None:
    client = Client(vllm_failover={"smol": "other"})
    client.call(*[LOADING] * 6, chat_stream(ANSWER))
    counts = client.dispatcher.stats.snapshot()["models"]["smol"]["chat"]
    assert (counts["calls"], counts["errors"], counts["cancelled"]) == (1, {}, 0)
    assert (counts["retries"], counts["failovers"], counts["answered_by"]) == (2, 4, {B: 1})
    assert counts["tokens"] == {"in": 7, "out": 3}
    assert (counts["in_flight"], counts["waiting"]) == (0, 0)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ([refused("bad", 400)], "refused"),
        ([UNAUTHORIZED], "unauthorized"),
        ([BOOM], "server_error"),
        ([LOADING] * 3, "unavailable"),
        ([BUSY] * 3, "busy"),
        ([[b"{"]], "malformed"),
        ([incomplete_reply(A, "reset")] * 3, "reset"),
        ([httpx.ReadTimeout("slow")], "timeout"),
        ([httpx.PoolTimeout("none is free")], "other"),
        ([[delta(content="my-")]], "cut_off"),
    ],
)
def test_stats_count_errors_by_kind(failure: list[Any], kind: str) -> None:
    client = Client(b=())
    client.failing_call(*failure, stream=True)
    assert client.totals["errors"] == {kind: 1}
    assert (client.totals["calls"], client.totals["cancelled"]) == (1, 0)


@pytest.mark.parametrize(("read", "cancelled"), [(1, 1), (2, 1), (3, 0)])
def test_stream_closed_before_last_part_counts_as_cancelled(read: int, cancelled: int) -> None:
    client, played = Client(), Play()
    steps = client.steps(stream=True)
    events = iter(chat_stream("my-", "answer"))
    step = next(steps)
    outcome: Any = None
    while len(played.parts) < read:
        step = steps.send(outcome)
        outcome = None
        if isinstance(step, dict):
            played.parts.append(step)
        else:
            outcome = next(events, None)
    steps.close()
    assert (client.totals["cancelled"], client.totals["errors"]) == (cancelled, {})
    assert client.totals["in_flight"] == 0


def test_call_closed_before_answer_counts_as_cancelled() -> None:
    client = Client()
    steps = client.steps()
    next(steps)
    assert client.totals["in_flight"] == 1
    steps.close()
    assert (client.totals["cancelled"], client.totals["in_flight"]) == (1, 0)


def test_call_closed_before_start_is_not_counted() -> None:
    client = Client()
    client.steps().close()
    assert client.totals["calls"] == 0


def test_call_without_admission_counts_as_limited() -> None:
    client = Client(vllm_max_concurrent=1)
    held = client.steps()
    step = next(held)
    assert held.send(step.queue.green_acquire(blocking=False))  # type: ignore[union-attr]
    _, error = client.failing_call()
    assert isinstance(error, RateLimited)
    assert client.totals["errors"] == {"limited": 1}
    assert (client.totals["in_flight"], client.totals["waiting"], client.last.waiting) == (1, 0, False)
    held.close()
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


def test_call_counts_as_waiting_until_admission() -> None:
    client = Client(vllm_max_concurrent=1)
    steps = client.steps()
    next(steps)
    assert (client.totals["waiting"], client.totals["in_flight"]) == (1, 0)
    steps.close()
    assert (client.totals["waiting"], client.totals["cancelled"]) == (0, 1)


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/api/chat", "chat"),
        ("/api/generate", "generate"),
        ("/api/embed", "embed"),
        ("/api/embeddings", "embed"),
        ("/api/show", "show"),
        ("/v1/systemone", "systemone"),
    ],
)
def test_record_has_operation_of_path(path: str, operation: str) -> None:
    client = Client()
    next(client.steps(path, input=[PROMPT]), None)
    assert client.observer.calls_started[0].operation == operation


def test_observer_that_raises_is_logged_and_does_not_break_call(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RecordingObserver):
        def started(self, _: CallRecord) -> None:
            raise RuntimeError("mine")

        def ended(self, _: CallRecord) -> None:
            raise RuntimeError("mine")

    client = Client()
    client.dispatcher.observers = Observers(Broken(), client.dispatcher.stats, client.observer)
    assert content(client.call(chat_stream(ANSWER))) == ANSWER
    assert client.totals["calls"] == len(client.observer.calls_ended) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "observer failed observer='Broken' cause='RuntimeError: mine'"
    ] * 2


# Log lines


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"ollama_compat.dispatch"}
    return [record.__dict__["event"] for record in caplog.records]


def test_retries_and_failovers_are_logged_with_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(vllm_failover={"smol": "other"})
    client.call(LOADING, LOADING, BOOM, BOOM, chat_stream(ANSWER))
    assert events(caplog) == ["failover", "retry", "failover", "failover"]
    to_b, retry, _, to_other = (record.__dict__ for record in caplog.records)
    assert (to_b["model"], to_b["of"], to_b["to"]) == ("smol", A, B)
    assert retry["seconds"] > 0
    assert (to_other["of"], to_other["to"]) == ("smol", "other")


def test_opened_and_closed_circuit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(b=())
    for _ in range(5):
        client.failing_call(BOOM)
    client.clock.now += 10 * SECOND
    client.call(chat_stream(ANSWER))
    assert events(caplog) == ["circuit opened", "circuit closed"]
    assert {record.__dict__["server"] for record in caplog.records} == {A}


def test_prompt_answer_and_key_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-vllm-secret"
    client = Client(
        b=("other",), vllm_api_key=key, vllm_failover={"smol": ("deepseek:deepseek-chat", "ollama:qwen3:8b", "other")}
    )
    quoting = reply({"detail": [{"loc": ["body"], "msg": "bad", "input": PROMPT}]}, 500)
    with caplog.at_level(logging.DEBUG):
        client.call(LOADING, quoting, Reply(401, b""), FROM_OLLAMA)
        client.call([b'{"choices": [{"delta": {"content": "' + ANSWER.encode()], [b"{"], FROM_OLLAMA)
        client.call(UNREACHABLE, chat_stream(ANSWER))
    assert caplog.records
    for record in caplog.records:
        shown = f"{record.getMessage()} {record.__dict__}"
        assert not [secret for secret in (PROMPT, ANSWER, key) if secret in shown]


def test_prompt_answer_and_key_are_not_in_record_settings_or_stats() -> None:
    key = "sk-vllm-secret"
    client = Client(vllm_api_key=key)
    client.call(BOOM, chat_stream(ANSWER))
    for text in (repr(client.last), repr(client.dispatcher.settings), repr(client.dispatcher.stats.snapshot())):
        assert not [secret for secret in (PROMPT, ANSWER, key) if secret in text]


def test_long_failure_is_shortened_in_log_line(caplog: pytest.LogCaptureFixture) -> None:
    Client().call(refused("x" * 5000, 500), chat_stream(ANSWER))
    assert len(caplog.records[0].getMessage()) < 500
