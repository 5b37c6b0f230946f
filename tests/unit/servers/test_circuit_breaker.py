"""The circuit breaker of a server: when it is left alone, and when it is tried again."""

from __future__ import annotations

import threading

import pytest

from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S, QUIET_S, CircuitBreaker
from tests.play import SECOND

OPEN = int(OPEN_S * SECOND)
NOW = 100 * SECOND
"""When the circuit of `opened()` opened."""


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        breaker.record_failure(NOW, "refused")
    return breaker


def on_trial() -> CircuitBreaker:
    breaker = opened()
    assert breaker.admit(NOW + OPEN)
    return breaker


def test_what_the_numbers_are() -> None:
    assert (FAILURES, OPEN_S) == (5, 10.0)


# Closed


def test_while_all_is_well_every_call_goes_through() -> None:
    breaker = CircuitBreaker()
    assert breaker.closed
    assert breaker.state(NOW) == "closed"
    assert breaker.seconds_left(NOW) == 0
    assert all(breaker.allows(NOW) and breaker.admit(NOW) for _ in range(100))


def test_the_fifth_failure_in_a_row_opens_it_and_no_earlier_one() -> None:
    breaker = CircuitBreaker()
    assert [breaker.record_failure(NOW, "refused") for _ in range(5)] == [False] * 4 + [True]
    assert not breaker.closed


def test_a_success_between_failures_begins_the_count_anew() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(NOW, "refused")
    assert not breaker.record_success(NOW), "it was not open, so it was not closed"
    assert [breaker.record_failure(NOW, "refused") for _ in range(5)] == [False] * 4 + [True]


def test_a_timeout_counts_once_the_server_has_answered_nobody_for_a_while() -> None:
    breaker, quiet = CircuitBreaker(), int(QUIET_S * SECOND)
    breaker.record_success(NOW)
    assert [breaker.record_timeout(NOW + quiet - 1, "late") for _ in range(50)] == [False] * 50
    assert breaker.failures == 0
    assert [breaker.record_timeout(NOW + quiet, "late") for _ in range(5)] == [False] * 4 + [True]


def test_a_timeout_of_a_server_that_has_never_answered_counts() -> None:
    breaker = CircuitBreaker()
    assert [breaker.record_timeout(NOW, "late") for _ in range(5)] == [False] * 4 + [True]


def test_what_the_last_failure_said_is_kept() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(NOW, "refused")
    breaker.record_failure(NOW, "reset")
    assert (breaker.failures, breaker.last_failure) == (2, "reset")


# Open


@pytest.mark.parametrize(("after_s", "left_s"), [(0, 10.0), (4, 6.0), (9.5, 0.5)])
def test_open_means_that_nothing_goes_through_for_ten_seconds(after_s: float, left_s: float) -> None:
    breaker, now = opened(), NOW + int(after_s * SECOND)
    assert breaker.state(now) == "open"
    assert not breaker.allows(now)
    assert not breaker.admit(now)
    assert breaker.seconds_left(now) == left_s


def test_open_ends_after_exactly_ten_seconds() -> None:
    breaker = opened()
    assert (breaker.state(NOW + OPEN - 1), breaker.allows(NOW + OPEN - 1)) == ("open", False)
    assert (breaker.state(NOW + OPEN), breaker.allows(NOW + OPEN)) == ("half-open", True)
    assert breaker.seconds_left(NOW + OPEN + SECOND) == 0


def test_failures_of_calls_from_before_do_not_put_the_trial_off() -> None:
    breaker = opened()
    assert [breaker.record_failure(NOW + 5 * SECOND, "reset") for _ in range(10)] == [False] * 10
    assert breaker.admit(NOW + OPEN)


@pytest.mark.parametrize("after", [SECOND, OPEN + SECOND])
def test_a_success_of_a_call_from_before_does_not_close_it(after: int) -> None:
    breaker = opened()
    assert not breaker.record_success(NOW)
    assert not breaker.closed
    assert breaker.failures == FAILURES
    assert breaker.allows(NOW + after) is (after > OPEN)


# On trial


def test_after_that_one_call_goes_through_on_trial() -> None:
    breaker, later = opened(), NOW + OPEN
    assert [breaker.admit(later) for _ in range(5)] == [True, False, False, False, False]
    assert not breaker.allows(later)
    assert breaker.state(later) == "half-open"


def test_of_many_threads_that_ask_at_once_one_goes_through() -> None:
    breaker, barrier, admitted = opened(), threading.Barrier(32), []

    def ask() -> None:
        barrier.wait()
        admitted.append(breaker.admit(NOW + OPEN))

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 31 + [True]


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = on_trial()
    assert breaker.record_success(NOW), "that is worth telling"
    assert breaker.state(NOW + OPEN) == "closed"
    assert breaker.admit(NOW + OPEN)
    assert breaker.failures == 0


def test_after_it_has_closed_it_takes_five_failures_again() -> None:
    breaker = on_trial()
    breaker.record_success(NOW)
    assert [breaker.record_failure(NOW + OPEN, "refused") for _ in range(5)] == [False] * 4 + [True]


def test_a_trial_that_fails_opens_it_for_as_long_again() -> None:
    breaker = on_trial()
    failed_at = NOW + OPEN + 3 * SECOND
    assert breaker.record_failure(failed_at, "refused"), "that is worth telling"
    assert breaker.seconds_left(failed_at) == OPEN_S
    assert not breaker.admit(failed_at + OPEN - 1)
    assert breaker.admit(failed_at + OPEN)


def test_a_trial_that_tells_nothing_makes_room_for_another() -> None:
    breaker = on_trial()
    breaker.release_probe()
    assert not breaker.closed
    assert breaker.admit(NOW + OPEN)


def test_a_trial_that_is_never_told_of_makes_room_for_another_after_ten_seconds() -> None:
    breaker = on_trial()
    assert not breaker.admit(NOW + 2 * OPEN - 1)
    assert breaker.admit(NOW + 2 * OPEN)


def test_to_leave_means_nothing_when_no_trial_runs() -> None:
    closed, open_ = CircuitBreaker(), opened()
    closed.release_probe()
    open_.release_probe()
    assert closed.closed
    assert not open_.admit(NOW)


def test_its_lock_is_not_shown() -> None:
    assert "lock" not in repr(CircuitBreaker())
