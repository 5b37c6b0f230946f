"""Observers: what a client notifies of the start and the end of each call, and contexts that are active meanwhile.

A call runs in its caller's thread or task. From one part that it hands to the caller to the next, all its work and I/O
is one stretch in one thread or task. A context (such as an OpenTelemetry span) is active during each stretch, and not
while the caller handles a part. However a stretch ends, the context ends in the thread or task that entered it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Protocol, runtime_checkable

from ..steps import Interceptor
from .call_record import CallRecord, Observer
from .log import log_decision


@runtime_checkable
class ContextObserver(Protocol):
    """An observer with a context that is active while a call runs."""

    def call_context(self, record: CallRecord) -> AbstractContextManager[None]:
        """The context of each stretch of the call. It must be quick and must not raise."""
        ...


class Observers:
    """The observers of one client, in the order in which they are notified."""

    def __init__(self, *observers: Observer) -> None:
        """Begin with these observers."""
        self.all: tuple[Observer, ...] = ()
        self.with_context: tuple[ContextObserver, ...] = ()
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Notify `observer` of every call from now on."""
        self.all += (observer,)
        if isinstance(observer, ContextObserver):
            self.with_context += (observer,)

    def after_fork(self) -> Observers:
        """The observers for the child of a fork."""
        return Observers(*map(_after_fork, self.all))


def _after_fork(observer: Observer) -> Observer:
    """The observer for the child. One that raises, or lacks the method, is logged, stays, and breaks no call."""
    try:
        return observer.after_fork()
    except Exception as error:
        log_decision("observer failed", f"{type(error).__name__}: {error}", observer=type(observer).__name__)
        return observer


class Contexts(Interceptor):
    """The contexts of a call: `intercept` ends them before each part and enters them after it."""

    def __init__(self, observers: tuple[ContextObserver, ...], record: CallRecord) -> None:
        """Enter the contexts."""
        self._observers, self._record = observers, record
        self._active = ExitStack()
        self.after_part()

    def after_part(self) -> None:
        """Enter the contexts: a stretch of work begins."""
        for observer in self._observers:
            self._active.enter_context(observer.call_context(self._record))

    def before_part(self) -> None:
        """End the contexts: the caller handles a part."""
        self.exit()

    def exit(self) -> None:
        """End the contexts, if they are active."""
        self._active.close()
