"""Admission of a call: first the rate of its operation, then a concurrency slot, in order of arrival."""

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
    """The admission of one client, and its calls."""

    def __init__(self, **settings: Any) -> None:
        self.clock = StillClock()
        limits = Settings(**settings)
        rates = {} if limits.vllm_limits is None else limits.rates
        self.admission = None
        if limits.max_concurrent is not None:
            self.admission = Admission(self.clock, limits.max_concurrent, rates, RATES)

    def call(self, operation: str = "chat", timeout_s: float | None = None) -> tuple[CallRecord, Steps[None]]:
        record = CallRecord(operation, "smol", started=self.clock.now)
        return record, admitted(self.admission, record, timeout_s, _answer())

    def answered(self, operation: str = "chat", timeout_s: float | None = None, **rates: list[Any]) -> Play:
        return Play(rates=rates).run(self.call(operation, timeout_s)[1])


def admitted(
    admission: Admission | None, record: CallRecord, timeout_s: float | None, steps: Steps[None]
) -> Steps[None]:
    """Acquire a slot, run the steps, and release the slot, as the dispatcher does."""
    if admission is None or record.operation not in RATES:
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
def test_call_does_not_wait_without_limits(operation: str) -> None:
    client = Client()
    record, steps = client.call(operation)
    assert next(steps) == ANSWER
    assert not record.waiting


@pytest.mark.parametrize("operation", ["show", "pull", "systemone"])
def test_operation_without_rate_needs_no_admission(operation: str) -> None:
    played = limited(vllm_max_concurrent=1).answered(operation)
    assert (played.parts, played.spent, played.entered) == ([ANSWER], [], [])


def test_error_of_call_is_raised_unchanged() -> None:
    record = CallRecord("chat", "smol", 0)

    def failing_steps() -> Steps[None]:
        yield NEXT_EVENT
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        play(admitted(limited().admission, record, None, failing_steps()))


# With limits


@pytest.mark.parametrize("operation", ["chat", "generate", "embed"])
def test_call_waits_for_rate_and_then_for_slot(operation: str) -> None:
    record, steps = limited().call(operation)
    assert isinstance(next(steps), AcquireSlot), "the queue of the operation"
    assert steps.send(True) == TakeToken(operation)
    assert isinstance(steps.send(0.0), AcquireSlot), "the concurrency slot"
    assert record.waiting
    assert steps.send(True) == ANSWER
    assert not record.waiting


def test_max_concurrent_works_without_rates() -> None:
    played = Client(vllm_max_concurrent=2).answered()
    assert (played.parts, played.spent, played.entered) == ([ANSWER], [], [None])


def test_call_sleeps_until_rate_admits_it() -> None:
    played = limited().answered(chat=[0.5, 0.25, 0.0])
    assert played.sleeps == [0.5, 0.25]
    assert played.spent == ["chat"] * 3
    assert played.parts == [ANSWER]


def test_sleeping_call_delays_calls_of_same_operation_only() -> None:
    client = limited()
    _, first = client.call("chat")
    acquire = next(first)
    assert isinstance(acquire, AcquireSlot)
    assert acquire.queue.green_acquire(blocking=False)
    first.send(True)
    assert first.send(3.0) == Sleep(3.0)
    with pytest.raises(RateLimited):
        client.answered("chat")
    assert client.answered("generate").parts == [ANSWER]
    first.close()
    assert client.answered("chat").parts == [ANSWER]


def test_queue_is_released_before_call_waits_for_slot() -> None:
    client = limited(vllm_max_concurrent=1)
    _, held = client.call()
    begin(held)
    for _ in range(2):
        with pytest.raises(RateLimited, match="VLLM_MAX_CONCURRENT"):
            client.answered()


# Release


def begin(steps: Steps[None]) -> None:
    """Run a call up to its first part. The call keeps its slot."""
    step = next(steps)
    while step != ANSWER:
        step = steps.send(step.queue.green_acquire(blocking=False) if isinstance(step, AcquireSlot) else 0.0)


def test_slot_is_released_after_answer() -> None:
    client = limited(vllm_max_concurrent=1)
    assert [client.answered().parts for _ in range(3)] == [[ANSWER]] * 3


def test_slot_is_held_until_end_of_answer() -> None:
    client = limited(vllm_max_concurrent=2)
    (_, one), (_, two) = client.call(), client.call("embed")
    begin(one)
    begin(two)
    with pytest.raises(RateLimited):
        client.answered("generate")
    assert next(one, None) is None
    assert client.answered("generate").parts == [ANSWER]


def test_slot_is_released_when_answer_is_closed() -> None:
    client = limited(vllm_max_concurrent=1)
    _, steps = client.call()
    begin(steps)
    steps.close()
    assert client.answered().parts == [ANSWER]


def test_slot_is_released_when_answer_fails() -> None:
    client = limited(vllm_max_concurrent=1)
    _, steps = client.call()
    begin(steps)
    with pytest.raises(ConnectionError):
        steps.throw(ConnectionError())
    assert client.answered().parts == [ANSWER]


def test_queue_is_released_when_rate_storage_fails() -> None:
    client = limited()
    with pytest.raises(ConnectionError, match="redis"):
        client.answered(chat=[ConnectionError("redis is gone")])
    assert client.answered().parts == [ANSWER]


def test_queue_is_released_when_rate_refuses() -> None:
    client = limited()
    with pytest.raises(RateLimited):
        client.answered(timeout_s=1.0, chat=[2.0])
    assert client.answered().parts == [ANSWER]


@pytest.mark.parametrize("outcomes", [0, 1, 2])
def test_cancelled_call_leaves_queue(outcomes: int) -> None:
    client = limited(vllm_max_concurrent=1)
    _, steps = client.call()
    step = next(steps)
    for outcome in [True, 3.0][:outcomes]:
        if isinstance(step, AcquireSlot):
            assert step.queue.green_acquire(blocking=False)
        step = steps.send(outcome)
    steps.close()
    assert client.answered().parts == [ANSWER]


def test_call_without_slot_releases_none() -> None:
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


# Timeouts


@pytest.mark.parametrize(("timeout_s", "waits"), [(None, None), (5.0, 5.0), (0.0, 0.0)])
def test_wait_is_bounded_by_timeout_of_caller(timeout_s: float | None, waits: float | None) -> None:
    _, steps = limited().call(timeout_s=timeout_s)
    acquire = next(steps)
    assert isinstance(acquire, AcquireSlot)
    assert acquire.timeout == waits


def test_wait_for_rate_shortens_wait_for_slot() -> None:
    client = limited()
    _, steps = client.call(timeout_s=5.0)
    next(steps)
    client.clock.now = 2 * SECOND
    steps.send(True)
    acquire = steps.send(0.0)
    assert isinstance(acquire, AcquireSlot)
    assert acquire.timeout == 3.0


def test_expired_timeout_becomes_zero() -> None:
    client = limited()
    _, steps = client.call(timeout_s=1.0)
    next(steps)
    client.clock.now = 9 * SECOND
    steps.send(True)
    acquire = steps.send(0.0)
    assert isinstance(acquire, AcquireSlot)
    assert acquire.timeout == 0.0


@pytest.mark.parametrize(("wait", "refused"), [(4.9, False), (5.0, False), (5.1, True)])
def test_call_is_refused_without_wait_when_rate_exceeds_timeout(wait: float, refused: bool) -> None:
    client = limited()
    if not refused:
        assert client.answered(timeout_s=5.0, chat=[wait]).sleeps == [wait]
        return
    played = Play(rates={"chat": [wait]})
    with pytest.raises(RateLimited):
        played.run(client.call(timeout_s=5.0)[1])
    assert played.sleeps == []


# Errors


def test_rate_limited_error_has_status_429_and_names_limit() -> None:
    client = limited(vllm_chat_rate="7/second")
    _, steps = client.call(timeout_s=3.0)
    next(steps)
    client.clock.now = SECOND * 5 // 4
    steps.send(True)
    with pytest.raises(RateLimited) as caught:
        steps.send(2.0)
    message = (
        "too many requests: chat waited 1.25 s for admission "
        "(7/second, VLLM_CHAT_RATE; the rate allows the next call in 2.0 s, and the caller's timeout ends in 1.8 s)"
    )
    assert (caught.value.error, caught.value.status_code) == (message, 429)


def test_error_names_rate_when_queue_is_not_released() -> None:
    record, steps = limited().call("embed", timeout_s=3.0)
    next(steps)
    with pytest.raises(RateLimited, match=r"embed waited 0.00 s for admission \(6000/minute, VLLM_EMBED_RATE\)"):
        steps.send(False)
    assert record.waiting, "the call was not admitted; the dispatcher ends its record"


def test_error_names_max_concurrent_when_no_slot_is_released() -> None:
    _, steps = Client(vllm_max_concurrent=3).call("embed")
    next(steps)
    with pytest.raises(RateLimited, match=r"\(3 at once, VLLM_MAX_CONCURRENT\)"):
        steps.send(False)


def test_limits_admit_ten_concurrent_calls_by_default() -> None:
    client = limited()
    held = [client.call()[1] for _ in range(10)]
    for steps in held:
        begin(steps)
    with pytest.raises(RateLimited, match="10 at once"):
        client.answered()
