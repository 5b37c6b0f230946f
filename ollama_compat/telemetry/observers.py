"""Observers: what a client notifies of the start and the end of each call, and contexts that are active meanwhile.

A call runs in its caller's thread or task. From one part that it hands to the caller to the next, all its work and I/O
is one stretch in one thread or task. A context (such as an OpenTelemetry span) is active during each stretch, and not
while the caller handles a part. However a stretch ends, the context ends in the thread or task that entered it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Literal, Protocol, runtime_checkable

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
    """The observers of one client."""

    def __init__(self, *observers: Observer) -> None:
        """`observers` are notified in this order."""
        self._observers: tuple[Observer, ...] = ()
        self._contexts: tuple[ContextObserver, ...] = ()
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Notify `observer` of every call from now on."""
        self._observers += (observer,)
        if isinstance(observer, ContextObserver):
            self._contexts += (observer,)

    def notify(self, event: Literal["started", "ended"], record: CallRecord) -> None:
        """Notify all observers. An observer that raises is logged and does not break the call."""
        for observer in self._observers:
            try:
                if event == "started":
                    observer.started(record)
                else:
                    observer.ended(record)
            except Exception as error:
                log_decision("observer failed", f"{type(error).__name__}: {error}", observer=type(observer).__name__)

    def contexts(self, record: CallRecord) -> Contexts | None:
        """The contexts of the observers for a call; None: no observer has one."""
        return Contexts(self._contexts, record) if self._contexts else None

    def after_fork(self) -> Observers:
        """The observers for the child of a fork."""
        return Observers(*(observer.after_fork() for observer in self._observers))


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
