"""Single flight: one call does a piece of work, and the other calls that need it wait for the end of it.

A call that meets no other costs one lock. Waiting calls use an aiologic semaphore, which threads and tasks may share.
If the leading call is cancelled, one of the waiting calls takes over. A call that has waited too long starts the work
again, and the other calls then wait for that one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..steps import AcquireSlot, Steps

if TYPE_CHECKING:
    import aiologic


@dataclass(eq=False, slots=True)
class Flight:
    """The work of one leading call."""

    ended: bool = False
    waiting: int = 0
    queue: aiologic.Semaphore | None = None


class SingleFlight:
    """Runs at most one call's work at a time."""

    def __init__(self) -> None:
        """No work is running."""
        # Reentrant: the garbage collector may close a forgotten leading call in the middle of any of these methods.
        self._lock = threading.RLock()
        self._flight: Flight | None = None

    @property
    def busy(self) -> bool:
        """Whether a call's work is running."""
        return self._flight is not None

    def run(self, needed: Callable[[], bool], work: Steps[None], wait_s: float) -> Steps[None]:
        """Run `work`, or wait for another call's work, until it is no longer `needed`.

        `wait_s` bounds each wait (seconds). Raises what `work` raises; a failure of another call is not raised here.
        """
        overdue: Flight | None = None
        while needed():
            flight, leads = self._join(overdue)
            if leads:
                yield from self._lead(flight, needed, work)
                return
            queue = self._queue(flight)
            overdue = flight if queue is not None and not (yield AcquireSlot(queue, wait_s)) else None

    def _join(self, overdue: Flight | None) -> tuple[Flight, bool]:
        """The flight to wait for, or a new one that this call leads (True)."""
        with self._lock:
            flight = self._flight
            if flight is not None and flight is not overdue:
                return flight, False
            self._flight = flight = Flight()
            return flight, True

    def _queue(self, flight: Flight) -> aiologic.Semaphore | None:
        """Where to wait for the end of a flight; None: it has ended."""
        import aiologic  # takes a tenth of a second to import: only where calls meet

        with self._lock:
            if flight.ended:
                return None
            flight.waiting += 1
            if flight.queue is None:
                flight.queue = aiologic.Semaphore(0)
            return flight.queue

    def _lead(self, flight: Flight, needed: Callable[[], bool], work: Steps[None]) -> Steps[None]:
        try:
            if needed():  # another thread's work may have ended in the meantime
                yield from work
        finally:
            with self._lock:
                flight.ended = True
                if self._flight is flight:
                    self._flight = None
            if flight.queue is not None:
                flight.queue.release(flight.waiting)
