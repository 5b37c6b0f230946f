"""Single flight: one call does the work, and the other calls wait for its end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ollama_compat.servers.single_flight import SingleFlight
from ollama_compat.steps import AcquireSlot, Sleep, Steps


class Calls:
    """Calls that share a single flight. The test runs each call step by step."""

    def __init__(self) -> None:
        self.flight, self.done = SingleFlight(), 0

    def _work(self) -> Steps[None]:
        yield Sleep(1)
        self.done += 1

    def call(self, times: int = 1) -> tuple[Steps[None], Any]:
        """A call that needs the work to be done `times` times, and its first step."""
        call = self.flight.run(lambda: self.done < times, self._work(), 5.0)
        return call, next(call)


def ends(call: Steps[None], outcome: Any = None) -> bool:
    """Whether the call ends with this outcome."""
    try:
        call.send(outcome)
    except StopIteration:
        return True
    return False


def released(step: Any) -> bool:
    """Whether the wait of the step has ended."""
    assert isinstance(step, AcquireSlot)
    return step.queue.green_acquire(blocking=False)


def test_one_call_works_and_other_calls_wait() -> None:
    calls = Calls()
    first, step = calls.call()
    others = [calls.call() for _ in range(3)]
    assert isinstance(step, Sleep)
    assert [released(wait) for _, wait in others] == [False] * 3
    assert ends(first)
    assert [released(wait) for _, wait in others] == [True] * 3
    assert all(ends(call, True) for call, _ in others)
    assert calls.done == 1


def test_wait_is_bounded() -> None:
    calls = Calls()
    working, _ = calls.call()
    _, wait = calls.call()
    assert wait.timeout == 5.0
    working.close()


def test_flight_is_busy_only_while_a_call_works() -> None:
    calls = Calls()
    assert not calls.flight.busy
    call, _ = calls.call()
    assert calls.flight.busy
    assert ends(call)
    assert not calls.flight.busy


def test_next_call_works_when_work_is_needed_again() -> None:
    calls = Calls()
    assert [ends(calls.call(1)[0]), ends(calls.call(2)[0])] == [True, True]
    assert calls.done == 2


def test_unneeded_work_is_not_done() -> None:
    calls = Calls()
    assert list(calls.flight.run(lambda: False, calls._work(), 5.0)) == []
    assert calls.done == 0


def test_waiting_call_takes_over_when_leading_call_is_cancelled() -> None:
    calls = Calls()
    first, _ = calls.call()
    (second, wait), (third, other) = calls.call(), calls.call()
    first.close()
    assert released(wait)
    assert released(other)
    assert isinstance(second.send(True), Sleep)
    again = third.send(True)
    assert not released(again)
    assert ends(second)
    assert released(again)
    assert ends(third, True)
    assert calls.done == 1


def test_failure_is_raised_in_leading_call_only() -> None:
    calls = Calls()
    first, _ = calls.call()
    second, wait = calls.call()
    with pytest.raises(ZeroDivisionError):
        first.throw(ZeroDivisionError)
    assert released(wait)
    assert isinstance(second.send(True), Sleep)
    assert ends(second)


def test_cancelled_waiting_call_does_not_block_flight() -> None:
    calls = Calls()
    first, _ = calls.call()
    second, _ = calls.call()
    second.close()
    assert ends(first)
    assert not calls.flight.busy


def test_call_whose_wait_times_out_leads_new_flight() -> None:
    calls = Calls()
    lost, _ = calls.call()
    second, _ = calls.call()
    assert isinstance(second.send(False), Sleep)
    third, wait = calls.call()
    lost.close()
    assert not released(wait)
    assert ends(second)
    assert released(wait)
    assert ends(third, True)


def test_waiting_call_works_when_work_of_leading_call_does_not_suffice() -> None:
    calls = Calls()
    first, _ = calls.call()
    (second, wait), (third, other) = calls.call(2), calls.call(2)
    assert ends(first)
    assert released(wait)
    assert released(other)
    assert isinstance(second.send(True), Sleep)
    again = third.send(True)
    assert ends(second)
    assert released(again)
    assert ends(third, True)
    assert calls.done == 2


def test_work_is_not_repeated_when_another_thread_ends_it_before_join(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    join = calls.flight._join

    def join_late(late: Any) -> Any:
        calls.done = 1
        return join(late)

    monkeypatch.setattr(calls.flight, "_join", join_late)
    with pytest.raises(StopIteration):
        calls.call()
    assert calls.done == 1
    assert not calls.flight.busy


def test_call_does_not_wait_when_flight_ends_before_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    first, _ = calls.call()
    join = calls.flight._join

    def join_late(*arguments: Any) -> Any:
        found = join(*arguments)
        assert ends(first)
        return found

    monkeypatch.setattr(calls.flight, "_join", join_late)
    with pytest.raises(StopIteration):
        calls.call()
    assert calls.done == 1


def test_call_without_concurrent_call_does_not_import_aiologic() -> None:
    script = (
        "import sys\n"
        "from ollama_compat.servers.single_flight import SingleFlight\n"
        "assert list(SingleFlight().run(lambda: True, iter(()), 5.0)) == []\n"
        "assert 'aiologic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
