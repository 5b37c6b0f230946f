"""When a call may begin: its rate, then a place, first come first served."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import Settings
from ollama_compat.exceptions import RateLimited
from ollama_compat.limits.admission import Admission
from ollama_compat.settings import RATES
from ollama_compat.steps import NEXT_EVENT, AcquireSlot, Sleep, Steps, TakeToken
from ollama_compat.telemetry.call_record import CallRecord
from tests.play import SECOND, Play, StillClock, play

ANSWER = {"message": "hi"}


class Client:
    """The limits of one client, and its calls."""

    def __init__(self, **settings: Any) -> None:
        self.clock = StillClock()
        limits = Settings(**settings)
        rates = {} if limits.vllm_limits is None else limits.rates
        self.admission = None
        if limits.max_concurrent is not None:
            self.admission = Admission(self.clock, limits.max_concurrent, rates, RATES)

    def call(self, operation: str = "chat", timeout_s: float | None = None) -> tuple[CallRecord, Steps[None]]:
        running = CallRecord(operation, "smol", started=self.clock.now)
        return running, admitted(self.admission, running, timeout_s, _answer())

    def answered(self, operation: str = "chat", timeout_s: float | None = None, **rates: list[Any]) -> Play:
        return Play(rates=rates).run(self.call(operation, timeout_s)[1])


def admitted(
    admission: Admission | None, record: CallRecord, timeout_s: float | None, steps: Steps[None]
) -> Steps[None]:
    """What the dispatcher does: acquire a slot, run the steps, release the slot."""
    if admission is None or not admission.limits(record.operation):
        yield from steps
        return
    yield from admission.acquire(record, timeout_s)
    try:
        yield from steps
    finally:
        admission.release()


def _answer() -> Steps[None]:
    yield ANSWER


def limited(**settings: Any) -> Client:
    return Client(vllm_limits="memory://", **settings)


# No limits


@pytest.mark.parametrize("operation", ["chat", "generate", "embed", "show"])
def test_without_limits_there_is_nothing_to_wait_for(operation: str) -> None:
    client = Client()
    running, exchange = client.call(operation)
    assert next(exchange) == ANSWER
    assert not running.waiting


@pytest.mark.parametrize("operation", ["show", "pull", "systemone"])
def test_what_has_no_rate_has_no_turn_either(operation: str) -> None:
    played = limited(vllm_max_concurrent=1).answered(operation)
    assert (played.parts, played.spent, played.entered) == ([ANSWER], [], [])


def test_how_a_call_ends_is_not_changed() -> None:
    running = CallRecord("chat", "smol", 0)

    def refuses() -> Steps[None]:
        yield NEXT_EVENT
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        play(admitted(limited().admission, running, None, refuses()))


# With limits


@pytest.mark.parametrize("operation", ["chat", "generate", "embed"])
def test_a_call_waits_at_its_rate_and_then_for_a_place(operation: str) -> None:
    running, exchange = limited().call(operation)
    assert isinstance(next(exchange), AcquireSlot), "the head of the queue"
    assert exchange.send(True) == TakeToken(operation)
    assert isinstance(exchange.send(0.0), AcquireSlot), "a place"
    assert running.waiting
    assert exchange.send(True) == ANSWER
    assert not running.waiting


def test_places_alone_need_no_rate() -> None:
    played = Client(vllm_max_concurrent=2).answered()
    assert (played.parts, played.spent, played.entered) == ([ANSWER], [], [None])


def test_while_its_rate_is_spent_a_call_sleeps_as_long_as_it_is_told() -> None:
    played = limited().answered(chat=[0.5, 0.25, 0.0])
    assert played.sleeps == [0.5, 0.25]
    assert played.spent == ["chat"] * 3
    assert played.parts == [ANSWER]


def test_whoever_sleeps_at_the_head_keeps_others_of_the_operation_waiting_and_no_more() -> None:
    client = limited()
    _, first = client.call("chat")
    enter = next(first)
    assert isinstance(enter, AcquireSlot)
    assert enter.queue.green_acquire(blocking=False)
    first.send(True)
    assert first.send(3.0) == Sleep(3.0)
    with pytest.raises(RateLimited):
        client.answered("chat")
    assert client.answered("generate").parts == [ANSWER]
    first.close()
    assert client.answered("chat").parts == [ANSWER]


def test_the_head_of_the_queue_is_free_before_a_place_is_waited_for() -> None:
    client = limited(vllm_max_concurrent=1)
    _, held = client.call()
    begin(held)
    for _ in range(2):
        with pytest.raises(RateLimited, match="VLLM_MAX_CONCURRENT"):
            client.answered()


# Given back


def begin(exchange: Steps[None]) -> None:
    """Play a call up to its first part, which it keeps waiting for more."""
    step = next(exchange)
    while step != ANSWER:
        step = exchange.send(step.queue.green_acquire(blocking=False) if isinstance(step, AcquireSlot) else 0.0)


def test_a_place_is_given_back_when_the_answer_is_over() -> None:
    client = limited(vllm_max_concurrent=1)
    assert [client.answered().parts for _ in range(3)] == [[ANSWER]] * 3


def test_a_place_is_held_until_the_answer_is_over() -> None:
    client = limited(vllm_max_concurrent=2)
    (_, one), (_, two) = client.call(), client.call("embed")
    begin(one)
    begin(two)
    with pytest.raises(RateLimited):
        client.answered("generate")
    assert next(one, None) is None
    assert client.answered("generate").parts == [ANSWER]


def test_a_place_is_given_back_when_the_answer_is_given_up() -> None:
    client = limited(vllm_max_concurrent=1)
    _, exchange = client.call()
    begin(exchange)
    exchange.close()
    assert client.answered().parts == [ANSWER]


def test_a_place_is_given_back_when_the_answer_fails() -> None:
    client = limited(vllm_max_concurrent=1)
    _, exchange = client.call()
    begin(exchange)
    with pytest.raises(ConnectionError):
        exchange.throw(ConnectionError())
    assert client.answered().parts == [ANSWER]


def test_the_head_is_given_back_when_the_rate_cannot_be_asked() -> None:
    client = limited()
    with pytest.raises(ConnectionError, match="redis"):
        client.answered(chat=[ConnectionError("redis is gone")])
    assert client.answered().parts == [ANSWER]


def test_the_head_is_given_back_when_the_rate_refuses() -> None:
    client = limited()
    with pytest.raises(RateLimited):
        client.answered(timeout_s=1.0, chat=[2.0])
    assert client.answered().parts == [ANSWER]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_whoever_goes_away_while_waiting_leaves_the_queue(steps: int) -> None:
    client = limited(vllm_max_concurrent=1)
    _, exchange = client.call()
    step = next(exchange)
    for outcome in [True, 3.0][:steps]:
        if isinstance(step, AcquireSlot):
            assert step.queue.green_acquire(blocking=False)
        step = exchange.send(outcome)
    exchange.close()
    assert client.answered().parts == [ANSWER]


def test_nothing_is_given_back_that_was_not_taken() -> None:
    client = limited(vllm_max_concurrent=1)
    _, held = client.call()
    begin(held)
    _, waiting = client.call()
    step = next(waiting)
    assert isinstance(step, AcquireSlot)
    step.queue.green_acquire(blocking=False)
    assert waiting.send(True) == TakeToken("chat")
    assert isinstance(waiting.send(0.0), AcquireSlot)
    waiting.close()
    with pytest.raises(RateLimited):
        client.answered()


# How long


@pytest.mark.parametrize(("timeout_s", "waits"), [(None, None), (5.0, 5.0), (0.0, 0.0)])
def test_a_queue_is_waited_in_as_long_as_the_callers_timeout(timeout_s: float | None, waits: float | None) -> None:
    _, exchange = limited().call(timeout_s=timeout_s)
    enter = next(exchange)
    assert isinstance(enter, AcquireSlot)
    assert enter.timeout == waits


def test_what_was_waited_at_the_rate_is_no_longer_left_for_a_place() -> None:
    client = limited()
    _, exchange = client.call(timeout_s=5.0)
    next(exchange)
    client.clock.now = 2 * SECOND
    exchange.send(True)
    enter = exchange.send(0.0)
    assert isinstance(enter, AcquireSlot)
    assert enter.timeout == 3.0


def test_a_timeout_that_is_over_is_no_negative_one() -> None:
    client = limited()
    _, exchange = client.call(timeout_s=1.0)
    next(exchange)
    client.clock.now = 9 * SECOND
    exchange.send(True)
    enter = exchange.send(0.0)
    assert isinstance(enter, AcquireSlot)
    assert enter.timeout == 0.0


@pytest.mark.parametrize(("wait", "refused"), [(4.9, False), (5.0, False), (5.1, True)])
def test_a_rate_that_refuses_for_longer_than_the_timeout_refuses_at_once(wait: float, refused: bool) -> None:
    client = limited()
    if not refused:
        assert client.answered(timeout_s=5.0, chat=[wait]).sleeps == [wait]
        return
    played = Play(rates={"chat": [wait]})
    with pytest.raises(RateLimited):
        played.run(client.call(timeout_s=5.0)[1])
    assert played.sleeps == []


# The refusal


def test_a_refusal_is_ollamas_429_and_says_which_limit() -> None:
    client = limited(vllm_chat_rate="7/second")
    _, exchange = client.call(timeout_s=3.0)
    next(exchange)
    client.clock.now = SECOND * 5 // 4
    exchange.send(True)
    with pytest.raises(RateLimited) as caught:
        exchange.send(2.0)
    message = (
        "too many requests: chat waited 1.25 s for admission "
        "(7/second, VLLM_CHAT_RATE; the rate allows the next call in 2.0 s, and the caller's timeout ends in 1.8 s)"
    )
    assert (caught.value.error, caught.value.status_code) == (message, 429)


def test_a_head_that_does_not_come_free_is_the_rates_refusal() -> None:
    running, exchange = limited().call("embed", timeout_s=3.0)
    next(exchange)
    with pytest.raises(RateLimited, match=r"embed waited 0.00 s for admission \(6000/minute, VLLM_EMBED_RATE\)"):
        exchange.send(False)
    assert running.waiting, "it never had its turn; the guard tells of its end"


def test_a_place_that_does_not_come_free_is_refused_with_its_variable() -> None:
    _, exchange = Client(vllm_max_concurrent=3).call("embed")
    next(exchange)
    with pytest.raises(RateLimited, match=r"\(3 at once, VLLM_MAX_CONCURRENT\)"):
        exchange.send(False)


def test_where_limits_are_on_ten_calls_may_be_in_flight() -> None:
    client = limited()
    held = [client.call()[1] for _ in range(10)]
    for exchange in held:
        begin(exchange)
    with pytest.raises(RateLimited, match="10 at once"):
        client.answered()
