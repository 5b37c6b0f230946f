"""What is told of a call after it: statistics, observers, the log."""

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
    REFUSES,
    UNAUTHORIZED,
    A,
    B,
    Client,
    Watch,
    content,
)

# Statistics


def test_a_call_that_was_answered_is_counted_with_all_that_happened() -> None:
    client = Client(vllm_failover={"smol": "other"})
    client.ask(*[LOADING] * 6, chat_stream(ANSWER))
    counted = client.made.stats.snapshot()["models"]["smol"]["chat"]
    assert (counted["calls"], counted["errors"], counted["cancelled"]) == (1, {}, 0)
    assert (counted["retries"], counted["failovers"], counted["answered_by"]) == (2, 4, {B: 1})
    assert counted["tokens"] == {"in": 7, "out": 3}
    assert (counted["in_flight"], counted["waiting"]) == (0, 0)


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
def test_errors_are_counted_by_kind(failure: list[Any], kind: str) -> None:
    client = Client(b=())
    client.fails(*failure, stream=True)
    assert client.totals["errors"] == {kind: 1}
    assert (client.totals["calls"], client.totals["cancelled"]) == (1, 0)


@pytest.mark.parametrize(("read", "cancelled"), [(1, 1), (2, 1), (3, 0)])
def test_who_stops_reading_before_the_last_part_has_cancelled(read: int, cancelled: int) -> None:
    client, played = Client(), Play()
    exchange = client.exchange(stream=True)
    events = iter(chat_stream("my-", "answer"))
    step = next(exchange)
    outcome: Any = None
    while len(played.parts) < read:
        step = exchange.send(outcome)
        outcome = None
        if isinstance(step, dict):
            played.parts.append(step)
        else:
            outcome = next(events, None)
    exchange.close()
    assert (client.totals["cancelled"], client.totals["errors"]) == (cancelled, {})
    assert client.totals["in_flight"] == 0


def test_a_call_that_goes_away_before_its_answer_begins_is_cancelled() -> None:
    client = Client()
    exchange = client.exchange()
    next(exchange)
    assert client.totals["in_flight"] == 1
    exchange.close()
    assert (client.totals["cancelled"], client.totals["in_flight"]) == (1, 0)


def test_a_call_that_was_never_begun_is_not_counted() -> None:
    client = Client()
    client.exchange().close()
    assert client.totals["calls"] == 0


def test_a_call_that_does_not_get_its_turn_is_counted_as_limited() -> None:
    client = Client(vllm_max_concurrent=1)
    held = client.exchange()
    step = next(held)
    assert held.send(step.queue.green_acquire(blocking=False))  # type: ignore[union-attr]
    _, error = client.fails()
    assert isinstance(error, RateLimited)
    assert client.totals["errors"] == {"limited": 1}
    assert (client.totals["in_flight"], client.totals["waiting"], client.last.waiting) == (1, 0, False)
    held.close()
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


def test_while_it_waits_it_is_counted_as_waiting() -> None:
    client = Client(vllm_max_concurrent=1)
    exchange = client.exchange()
    next(exchange)
    assert (client.totals["waiting"], client.totals["in_flight"]) == (1, 0)
    exchange.close()
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
def test_an_operation_has_ollamas_word(path: str, operation: str) -> None:
    client = Client()
    next(client.exchange(path, input=[PROMPT]), None)
    assert client.watch.started_[0].operation == operation


def test_an_observer_that_raises_does_not_break_the_call(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watch):
        def started(self, _: CallRecord) -> None:
            raise RuntimeError("mine")

        def ended(self, _: CallRecord) -> None:
            raise RuntimeError("mine")

    client = Client()
    client.made.observers = Observers(Broken(), client.made.stats, client.watch)
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER
    assert client.totals["calls"] == len(client.watch.ended_) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "observer failed observer='Broken' cause='RuntimeError: mine'"
    ] * 2


# The log


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"ollama_compat.dispatch"}
    return [record.__dict__["event"] for record in caplog.records]


def test_every_decision_is_a_line_with_its_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(vllm_failover={"smol": "other"})
    client.ask(LOADING, LOADING, BOOM, BOOM, chat_stream(ANSWER))
    assert events(caplog) == ["failover", "retry", "failover", "failover"]
    to_b, again, _, to_other = (record.__dict__ for record in caplog.records)
    assert (to_b["model"], to_b["of"], to_b["to"]) == ("smol", A, B)
    assert again["seconds"] > 0
    assert (to_other["of"], to_other["to"]) == ("smol", "other")


def test_a_circuit_that_opens_and_closes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(b=())
    for _ in range(5):
        client.fails(BOOM)
    client.clock.now += 10 * SECOND
    client.ask(chat_stream(ANSWER))
    assert events(caplog) == ["circuit opened", "circuit closed"]
    assert {record.__dict__["server"] for record in caplog.records} == {A}


def test_no_prompt_answer_or_key_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-vllm-secret"
    client = Client(
        b=("other",), vllm_api_key=key, vllm_failover={"smol": ("deepseek:deepseek-chat", "ollama:qwen3:8b", "other")}
    )
    quoting = reply({"detail": [{"loc": ["body"], "msg": "bad", "input": PROMPT}]}, 500)
    with caplog.at_level(logging.DEBUG):
        client.ask(LOADING, quoting, Reply(401, b""), FROM_OLLAMA)
        client.ask([b'{"choices": [{"delta": {"content": "' + ANSWER.encode()], [b"{"], FROM_OLLAMA)
        client.ask(REFUSES, chat_stream(ANSWER))
    assert caplog.records
    for record in caplog.records:
        shown = f"{record.getMessage()} {record.__dict__}"
        assert not [secret for secret in (PROMPT, ANSWER, key) if secret in shown]


def test_nor_shown_in_what_is_told_of_a_call() -> None:
    key = "sk-vllm-secret"
    client = Client(vllm_api_key=key)
    client.ask(BOOM, chat_stream(ANSWER))
    for shown in (repr(client.last), repr(client.made.settings), repr(client.made.stats.snapshot())):
        assert not [secret for secret in (PROMPT, ANSWER, key) if secret in shown]


def test_a_long_failure_is_told_in_short(caplog: pytest.LogCaptureFixture) -> None:
    Client().ask(refused("x" * 5000, 500), chat_stream(ANSWER))
    assert len(caplog.records[0].getMessage()) < 500
