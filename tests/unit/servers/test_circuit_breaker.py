"""The circuit breaker of a server: when it opens, and when a half-open probe tests the server."""

from __future__ import annotations

import threading

import pytest

from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S, QUIET_S, CircuitBreaker
from tests.play import SECOND

OPEN = int(OPEN_S * SECOND)
NOW = 100 * SECOND
"""The time at which `open_breaker()` opened (ticks)."""


def open_breaker() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        breaker.record_failure(NOW, "refused")
    return breaker


def half_open_breaker() -> CircuitBreaker:
    breaker = open_breaker()
    assert breaker.admit(NOW + OPEN)
    return breaker


def test_circuit_opens_for_ten_seconds_after_five_failures() -> None:
    assert (FAILURES, OPEN_S) == (5, 10.0)


# Closed


def test_closed_circuit_admits_every_call() -> None:
    breaker = CircuitBreaker()
    assert breaker.closed
    assert breaker.state(NOW) == "closed"
    assert breaker.seconds_left(NOW) == 0
    assert all(breaker.allows(NOW) and breaker.admit(NOW) for _ in range(100))


def test_fifth_consecutive_failure_opens_circuit() -> None:
    breaker = CircuitBreaker()
    assert [breaker.record_failure(NOW, "refused") for _ in range(5)] == [False] * 4 + [True]
    assert not breaker.closed


def test_success_resets_failure_count() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(NOW, "refused")
    assert not breaker.record_success(NOW), "a closed circuit does not close again"
    assert [breaker.record_failure(NOW, "refused") for _ in range(5)] == [False] * 4 + [True]


def test_timeout_counts_when_server_has_not_answered_recently() -> None:
    breaker, quiet = CircuitBreaker(), int(QUIET_S * SECOND)
    breaker.record_success(NOW)
    assert [breaker.record_timeout(NOW + quiet - 1, "late") for _ in range(50)] == [False] * 50
    assert breaker.failures == 0
    assert [breaker.record_timeout(NOW + quiet, "late") for _ in range(5)] == [False] * 4 + [True]


def test_timeout_counts_when_server_has_never_answered() -> None:
    breaker = CircuitBreaker()
    assert [breaker.record_timeout(NOW, "late") for _ in range(5)] == [False] * 4 + [True]


def test_breaker_keeps_message_of_last_failure() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(NOW, "refused")
    breaker.record_failure(NOW, "reset")
    assert (breaker.failures, breaker.last_failure) == (2, "reset")


# Open


@pytest.mark.parametrize(("after_s", "left_s"), [(0, 10.0), (4, 6.0), (9.5, 0.5)])
def test_open_circuit_admits_no_call_for_ten_seconds(after_s: float, left_s: float) -> None:
    breaker, now = open_breaker(), NOW + int(after_s * SECOND)
    assert breaker.state(now) == "open"
    assert not breaker.allows(now)
    assert not breaker.admit(now)
    assert breaker.seconds_left(now) == left_s


def test_open_circuit_is_half_open_after_exactly_ten_seconds() -> None:
    breaker = open_breaker()
    assert (breaker.state(NOW + OPEN - 1), breaker.allows(NOW + OPEN - 1)) == ("open", False)
    assert (breaker.state(NOW + OPEN), breaker.allows(NOW + OPEN)) == ("half-open", True)
    assert breaker.seconds_left(NOW + OPEN + SECOND) == 0


def test_failures_of_earlier_calls_do_not_delay_half_open_probe() -> None:
    breaker = open_breaker()
    assert [breaker.record_failure(NOW + 5 * SECOND, "reset") for _ in range(10)] == [False] * 10
    assert breaker.admit(NOW + OPEN)


@pytest.mark.parametrize("after", [SECOND, OPEN + SECOND])
def test_success_of_earlier_call_does_not_close_circuit(after: int) -> None:
    breaker = open_breaker()
    assert not breaker.record_success(NOW)
    assert not breaker.closed
    assert breaker.failures == FAILURES
    assert breaker.allows(NOW + after) is (after > OPEN)


# Half-open


def test_half_open_circuit_admits_one_probe() -> None:
    breaker, later = open_breaker(), NOW + OPEN
    assert [breaker.admit(later) for _ in range(5)] == [True, False, False, False, False]
    assert not breaker.allows(later)
    assert breaker.state(later) == "half-open"


def test_half_open_circuit_admits_one_probe_of_concurrent_threads() -> None:
    breaker, barrier, admitted = open_breaker(), threading.Barrier(32), []

    def admit() -> None:
        barrier.wait()
        admitted.append(breaker.admit(NOW + OPEN))

    threads = [threading.Thread(target=admit) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 31 + [True]


def test_successful_probe_closes_circuit() -> None:
    breaker = half_open_breaker()
    assert breaker.record_success(NOW)
    assert breaker.state(NOW + OPEN) == "closed"
    assert breaker.admit(NOW + OPEN)
    assert breaker.failures == 0


def test_closed_circuit_opens_again_after_five_failures() -> None:
    breaker = half_open_breaker()
    breaker.record_success(NOW)
    assert [breaker.record_failure(NOW + OPEN, "refused") for _ in range(5)] == [False] * 4 + [True]


def test_failed_probe_opens_circuit_for_ten_more_seconds() -> None:
    breaker = half_open_breaker()
    failed_at = NOW + OPEN + 3 * SECOND
    assert breaker.record_failure(failed_at, "refused")
    assert breaker.seconds_left(failed_at) == OPEN_S
    assert not breaker.admit(failed_at + OPEN - 1)
    assert breaker.admit(failed_at + OPEN)


def test_released_probe_admits_next_probe() -> None:
    breaker = half_open_breaker()
    breaker.release_probe()
    assert not breaker.closed
    assert breaker.admit(NOW + OPEN)


def test_probe_without_result_expires_after_ten_seconds() -> None:
    breaker = half_open_breaker()
    assert not breaker.admit(NOW + 2 * OPEN - 1)
    assert breaker.admit(NOW + 2 * OPEN)


def test_release_probe_has_no_effect_without_probe() -> None:
    closed, open_ = CircuitBreaker(), open_breaker()
    closed.release_probe()
    open_.release_probe()
    assert closed.closed
    assert not open_.admit(NOW)


def test_repr_omits_lock() -> None:
    assert "lock" not in repr(CircuitBreaker())
