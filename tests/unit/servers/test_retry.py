"""The retry schedule of a call: the length of each wait, and when retries end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.servers.retry import DEFAULT_BUDGET_S, FIRST_WAIT_S, MAX_WAIT_S, ROUNDS, RetrySchedule


def test_defaults_of_retry_schedule() -> None:
    assert (ROUNDS, FIRST_WAIT_S, MAX_WAIT_S, DEFAULT_BUDGET_S) == (3, 0.1, 2.0, 60.0)


def test_three_rounds_have_two_waits() -> None:
    schedule = RetrySchedule(None)
    assert [schedule.next_wait(None, 0) is None for _ in range(4)] == [False, False, True, True]


def test_retry_after_does_not_add_rounds() -> None:
    schedule = RetrySchedule(None)
    assert [schedule.next_wait(0.5, 0) for _ in range(3)] == [0.5, 0.5, None]


def test_backoff_doubles_with_jitter() -> None:
    firsts, seconds = set(), set()
    for _ in range(50):
        schedule = RetrySchedule(None)
        firsts.add(schedule.next_wait(None, 0) or 0)
        seconds.add(schedule.next_wait(None, 0) or 0)
    assert all(0.1 <= wait <= 0.2 for wait in firsts)
    assert all(0.2 <= wait <= 0.3 for wait in seconds)
    assert len(firsts) > 1, "jitter spreads the retries of calls that failed together"


@pytest.mark.parametrize("seconds", [0.0, 0.01, 30.0])
def test_retry_after_replaces_backoff(seconds: float) -> None:
    assert RetrySchedule(None).next_wait(seconds, 0) == seconds


@pytest.mark.parametrize(
    ("timeout_s", "retry_after_s", "elapsed_s", "waits"),
    [
        (5.0, 5.0, 0.0, True),
        (5.0, 5.1, 0.0, False),
        (5.0, 3.0, 2.0, True),
        (5.0, 3.0, 2.5, False),
        (5.0, None, 5.0, False),
        (0.0, None, 0.0, False),
        (None, 60.0, 0.0, True),
        (None, 61.0, 0.0, False),
        (600.0, 300.0, 0.0, True),
    ],
)
def test_wait_is_allowed_only_within_timeout_of_caller(
    timeout_s: float | None, retry_after_s: float | None, elapsed_s: float, waits: bool
) -> None:
    assert (RetrySchedule(timeout_s).next_wait(retry_after_s, elapsed_s) is not None) is waits


@given(
    st.floats(0, 100),
    st.lists(st.tuples(st.none() | st.floats(0, 100), st.floats(0, 10)), max_size=8),
)
def test_sum_of_waits_stays_within_timeout_of_caller(
    timeout_s: float, rounds: list[tuple[float | None, float]]
) -> None:
    schedule, elapsed, waited = RetrySchedule(timeout_s), 0.0, 0
    for retry_after, took in rounds:
        elapsed += took
        wait = schedule.next_wait(retry_after, elapsed)
        if wait is not None:
            waited += 1
            elapsed += wait
            assert elapsed <= timeout_s
    assert waited < ROUNDS


def test_schedule_does_not_affect_other_schedules() -> None:
    first = RetrySchedule(None)
    while first.next_wait(None, 0) is not None:
        pass
    assert RetrySchedule(None).next_wait(None, 0) is not None
