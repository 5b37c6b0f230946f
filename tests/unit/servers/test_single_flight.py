"""Work that one call does while the others wait for its outcome."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ollama_compat.servers.single_flight import SingleFlight
from ollama_compat.steps import AcquireSlot, Sleep, Steps


class Office:
    """Calls that want the same work done, driven by hand."""

    def __init__(self) -> None:
        self.flight, self.done = SingleFlight(), 0

    def _work(self) -> Steps[None]:
        yield Sleep(1)
        self.done += 1

    def call(self, times: int = 1) -> tuple[Steps[None], Any]:
        """A call that wants it done so many times, and the first thing that it asks for."""
        call = self.flight.run(lambda: self.done < times, self._work(), 5.0)
        return call, next(call)


def over(call: Steps[None], outcome: Any = None) -> bool:
    """Whether the call is over with this outcome."""
    try:
        call.send(outcome)
    except StopIteration:
        return True
    return False


def entered(step: Any) -> bool:
    """Whether a place in the queue that is waited in has come free."""
    assert isinstance(step, AcquireSlot)
    return step.queue.green_acquire(blocking=False)


def test_one_works_and_the_others_wait_for_its_end() -> None:
    office = Office()
    first, step = office.call()
    others = [office.call() for _ in range(3)]
    assert isinstance(step, Sleep)
    assert [entered(wait) for _, wait in others] == [False] * 3
    assert over(first)
    assert [entered(wait) for _, wait in others] == [True] * 3
    assert all(over(call, True) for call, _ in others)
    assert office.done == 1


def test_a_wait_has_an_end() -> None:
    office = Office()
    working, _ = office.call()
    _, wait = office.call()
    assert wait.timeout == 5.0
    working.close()


def test_while_nobody_works_it_is_not_busy() -> None:
    office = Office()
    assert not office.flight.busy
    call, _ = office.call()
    assert office.flight.busy
    assert over(call)
    assert not office.flight.busy


def test_when_it_is_needed_again_the_next_call_does_it() -> None:
    office = Office()
    assert [over(office.call(1)[0]), over(office.call(2)[0])] == [True, True]
    assert office.done == 2


def test_what_is_not_needed_is_not_done() -> None:
    office = Office()
    assert list(office.flight.run(lambda: False, office._work(), 5.0)) == []
    assert office.done == 0


def test_when_the_one_at_work_goes_away_one_of_the_others_works_and_the_rest_wait_for_that() -> None:
    office = Office()
    first, _ = office.call()
    (second, wait), (third, other) = office.call(), office.call()
    first.close()
    assert entered(wait)
    assert entered(other)
    assert isinstance(second.send(True), Sleep)
    again = third.send(True)
    assert not entered(again)
    assert over(second)
    assert entered(again)
    assert over(third, True)
    assert office.done == 1


def test_a_failure_is_raised_where_the_work_is_done_and_nowhere_else() -> None:
    office = Office()
    first, _ = office.call()
    second, wait = office.call()
    with pytest.raises(ZeroDivisionError):
        first.throw(ZeroDivisionError)
    assert entered(wait)
    assert isinstance(second.send(True), Sleep)
    assert over(second)


def test_who_goes_away_while_it_waits_is_not_waited_for() -> None:
    office = Office()
    first, _ = office.call()
    second, _ = office.call()
    second.close()
    assert over(first)
    assert not office.flight.busy


def test_who_has_waited_for_too_long_works_itself_and_later_ones_wait_for_that() -> None:
    office = Office()
    lost, _ = office.call()
    second, _ = office.call()
    assert isinstance(second.send(False), Sleep)
    third, wait = office.call()
    lost.close()
    assert not entered(wait)
    assert over(second)
    assert entered(wait)
    assert over(third, True)


def test_where_another_calls_work_does_not_do_one_of_those_who_wait_works_too() -> None:
    office = Office()
    first, _ = office.call()
    (second, wait), (third, other) = office.call(2), office.call(2)
    assert over(first)
    assert entered(wait)
    assert entered(other)
    assert isinstance(second.send(True), Sleep)
    again = third.send(True)
    assert over(second)
    assert entered(again)
    assert over(third, True)
    assert office.done == 2


def test_work_that_another_thread_has_done_in_that_moment_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    boarded = office.flight._join

    def board(late: Any) -> Any:
        office.done = 1
        return boarded(late)

    monkeypatch.setattr(office.flight, "_join", board)
    with pytest.raises(StopIteration):
        office.call()
    assert office.done == 1
    assert not office.flight.busy


def test_who_finds_it_over_as_it_comes_to_wait_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    first, _ = office.call()
    boarded = office.flight._join

    def board(*arguments: Any) -> Any:
        found = boarded(*arguments)
        assert over(first)
        return found

    monkeypatch.setattr(office.flight, "_join", board)
    with pytest.raises(StopIteration):
        office.call()
    assert office.done == 1


def test_a_call_that_meets_no_other_imports_no_queue() -> None:
    script = (
        "import sys\n"
        "from ollama_compat.servers.single_flight import SingleFlight\n"
        "assert list(SingleFlight().run(lambda: True, iter(()), 5.0)) == []\n"
        "assert 'aiologic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
