"""Observers that are there while a call is at work, and not while its caller handles a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_compat.steps import Exchange, Part, Sleep, Step
from ollama_compat.telemetry.observers import accompanied

ONE: Part = {"part": 1}
TWO: Part = {"part": 2}


class Companion:
    """Whether it is there, and how often it has come."""

    def __init__(self) -> None:
        self.there, self.came = False, 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.there, self.came = True, self.came + 1
        try:
            yield
        finally:
            self.there = False


@pytest.fixture
def companion() -> Companion:
    return Companion()


def answering(*steps: Step) -> Exchange[None]:
    yield from steps


def test_it_is_there_while_something_is_waited_for_and_not_while_a_part_is_handled(companion: Companion) -> None:
    exchange = accompanied(answering(Sleep(1), ONE, Sleep(2), Sleep(3), TWO, Sleep(4)), companion.at_work)
    assert [(companion.there, step) for step in exchange] == [
        (True, Sleep(1)),
        (False, ONE),
        (True, Sleep(2)),
        (True, Sleep(3)),
        (False, TWO),
        (True, Sleep(4)),
    ]
    assert (companion.there, companion.came) == (False, 3), "once for each stretch"


def test_outcomes_and_problems_reach_the_exchange(companion: Companion) -> None:
    heard: list[object] = []

    def curious() -> Exchange[None]:
        heard.append((yield Sleep(1)))
        for step in (Sleep(2), ONE):
            try:
                yield step
            except ZeroDivisionError as problem:
                heard.append((type(problem), companion.there))
        yield TWO

    exchange = accompanied(curious(), companion.at_work)
    assert next(exchange) == Sleep(1)
    assert exchange.send("an outcome") == Sleep(2)
    assert exchange.throw(ZeroDivisionError()) == ONE
    assert exchange.throw(ZeroDivisionError()) == TWO
    assert heard == ["an outcome", (ZeroDivisionError, True), (ZeroDivisionError, True)]


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_an_error_of_the_exchange_is_the_callers_and_leaves_nobody_there(companion: Companion, step: Step) -> None:
    exchange = accompanied(answering(step), companion.at_work)
    next(exchange)
    with pytest.raises(ZeroDivisionError):
        exchange.throw(ZeroDivisionError())
    assert not companion.there


@pytest.mark.parametrize("step", [Sleep(1), ONE])
def test_a_call_that_is_given_up_is_closed_and_leaves_nobody_there(companion: Companion, step: Step) -> None:
    closed = []

    def call() -> Exchange[None]:
        try:
            yield step
        finally:
            closed.append(True)

    exchange = accompanied(call(), companion.at_work)
    next(exchange)
    exchange.close()
    assert (closed, companion.there) == ([True], False)
