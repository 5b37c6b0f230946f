"""Observers that are there while a call is at work, and not while its caller handles a part of the answer.

An exchange runs in its caller's thread or task: from one part that it hands over to the next, all that it does and all
I/O that is done for it is one stretch of one thread or task. What is entered at its start and left at its end (such as
a context variable) is so left where it was entered, however the stretch ends. A stream that is forgotten or closed lies
between two stretches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from ..steps import JsonObject, Steps
from .stats import CallRecord


@runtime_checkable
class ContextObserver(Protocol):
    """An observer that is there while calls are at work."""

    def call_context(self, running: CallRecord) -> AbstractContextManager[None]:
        """Entered for each stretch of work of a call. It must be quick and must not raise."""
        ...


def accompanied(exchange: Steps[None], call_context: Callable[[], AbstractContextManager[None]]) -> Steps[None]:
    """`exchange`, with `at_work()` entered for each of its stretches."""
    problem: Exception | None = None
    try:
        while True:
            with call_context():
                part = yield from _to_next_part(exchange, problem)
            if part is None:
                return
            problem = None
            try:
                yield part
            except Exception as error:  # thrown in by who drives the exchange
                problem = error
    finally:
        exchange.close()


def _to_next_part(exchange: Steps[None], problem: Exception | None) -> Steps[JsonObject | None]:
    """Do what an exchange asks for until it has a part; None: it is over."""
    try:
        step = next(exchange) if problem is None else exchange.throw(problem)
        while not isinstance(step, dict):
            try:
                outcome = yield step
            except Exception as error:
                step = exchange.throw(error)
            else:
                step = exchange.send(outcome)
    except StopIteration:
        return None
    return step
