"""Contexts of observers: active while a call runs, and not while its caller handles a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_compat.steps import JsonObject, Sleep, Step, Steps, intercept
from ollama_compat.telemetry.call_record import CallRecord
from ollama_compat.telemetry.observers import Contexts, Observers
from ollama_compat.telemetry.stats import Stats

ONE: JsonObject = {"part": 1}
TWO: JsonObject = {"part": 2}


class Watcher:
    """Whether its context is active, and how often it was entered."""

    def __init__(self) -> None:
        self.active, self.entered = False, 0

    def started(self, record: CallRecord) -> None:
        pass

    def ended(self, record: CallRecord) -> None:
        pass

    def after_fork(self) -> Watcher:
        return self

    @contextmanager
    def call_context(self, record: CallRecord) -> Iterator[None]:
        self.active, self.entered = True, self.entered + 1
        try:
            yield
        finally:
            self.active = False


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def answering(*steps: Step) -> Steps[None]:
    yield from steps


def observed(steps: Steps[None], watcher: Watcher) -> Steps[None]:
    """What the dispatcher does: enter the contexts, run the steps, end the contexts."""
    contexts = Contexts(Observers(watcher).with_context, CallRecord("chat", "smol", 0))
    try:
        yield from intercept(steps, contexts)
    finally:
        contexts.exit()


def test_context_is_active_during_io_and_not_while_the_caller_handles_a_part(watcher: Watcher) -> None:
    steps = observed(answering(Sleep(1), ONE, Sleep(2), Sleep(3), TWO, Sleep(4)), watcher)
    assert [(watcher.active, step) for step in steps] == [
        (True, Sleep(1)),
        (False, ONE),
        (True, Sleep(2)),
        (True, Sleep(3)),
        (False, TWO),
        (True, Sleep(4)),
    ]
    assert (watcher.active, watcher.entered) == (False, 3), "once for each stretch"


def test_only_observers_with_a_context_have_one(watcher: Watcher) -> None:
    assert Observers(Stats(), watcher).with_context == (watcher,)


def test_an_observer_that_fails_after_a_fork_stays_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Watcher):
        def after_fork(self) -> Watcher:
            raise ZeroDivisionError

    stats, failing = Stats(), Failing()
    assert Observers(failing, stats).after_fork().all == (failing, stats)
    assert "observer='Failing'" in caplog.text


def test_outcomes_and_exceptions_reach_the_steps(watcher: Watcher) -> None:
    received: list[object] = []

    def operation() -> Steps[None]:
        received.append((yield Sleep(1)))
        try:
            yield Sleep(2)
        except ZeroDivisionError as error:
            received.append((type(error), watcher.active))
        yield TWO

    steps = observed(operation(), watcher)
    assert next(steps) == Sleep(1)
    assert steps.send("an outcome") == Sleep(2)
    assert steps.throw(ZeroDivisionError()) == TWO
    assert received == ["an outcome", (ZeroDivisionError, True)]


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_context_ends_when_the_steps_raise(watcher: Watcher, step: Step) -> None:
    steps = observed(answering(step), watcher)
    next(steps)
    with pytest.raises(ZeroDivisionError):
        steps.throw(ZeroDivisionError())
    assert not watcher.active


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_context_ends_when_the_caller_closes_the_steps(watcher: Watcher, step: Step) -> None:
    closed = []

    def operation() -> Steps[None]:
        try:
            yield step
        finally:
            closed.append(True)

    steps = observed(operation(), watcher)
    next(steps)
    steps.close()
    assert (closed, watcher.active) == ([True], False)
