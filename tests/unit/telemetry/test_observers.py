"""Observers that are there while a call is at work, and not while its caller handles a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_compat.steps import JsonObject, Sleep, Step, Steps
from ollama_compat.telemetry.observers import accompanied

ONE: JsonObject = {"part": 1}
TWO: JsonObject = {"part": 2}


class ContextObserver:
    """Whether it is there, and how often it has come."""

    def __init__(self) -> None:
        self.there, self.came = False, 0

    @contextmanager
    def call_context(self) -> Iterator[None]:
        self.there, self.came = True, self.came + 1
        try:
            yield
        finally:
            self.there = False


@pytest.fixture
def companion() -> ContextObserver:
    return ContextObserver()


def answering(*steps: Step) -> Steps[None]:
    yield from steps


def test_it_is_there_while_something_is_waited_for_and_not_while_a_part_is_handled(companion: ContextObserver) -> None:
    exchange = accompanied(answering(Sleep(1), ONE, Sleep(2), Sleep(3), TWO, Sleep(4)), companion.call_context)
    assert [(companion.there, step) for step in exchange] == [
        (True, Sleep(1)),
        (False, ONE),
        (True, Sleep(2)),
        (True, Sleep(3)),
        (False, TWO),
        (True, Sleep(4)),
    ]
    assert (companion.there, companion.came) == (False, 3), "once for each stretch"


def test_outcomes_and_problems_reach_the_exchange(companion: ContextObserver) -> None:
    heard: list[object] = []

    def curious() -> Steps[None]:
        heard.append((yield Sleep(1)))
        for step in (Sleep(2), ONE):
            try:
                yield step
            except ZeroDivisionError as problem:
                heard.append((type(problem), companion.there))
        yield TWO

    exchange = accompanied(curious(), companion.call_context)
    assert next(exchange) == Sleep(1)
    assert exchange.send("an outcome") == Sleep(2)
    assert exchange.throw(ZeroDivisionError()) == ONE
    assert exchange.throw(ZeroDivisionError()) == TWO
    assert heard == ["an outcome", (ZeroDivisionError, True), (ZeroDivisionError, True)]


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_an_error_of_the_exchange_is_the_callers_and_leaves_nobody_there(
    companion: ContextObserver, step: Step
) -> None:
    exchange = accompanied(answering(step), companion.call_context)
    next(exchange)
    with pytest.raises(ZeroDivisionError):
        exchange.throw(ZeroDivisionError())
    assert not companion.there


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_a_call_that_is_given_up_is_closed_and_leaves_nobody_there(companion: ContextObserver, step: Step) -> None:
    closed = []

    def call() -> Steps[None]:
        try:
            yield step
        finally:
            closed.append(True)

    exchange = accompanied(call(), companion.call_context)
    next(exchange)
    exchange.close()
    assert (closed, companion.there) == ([True], False)
