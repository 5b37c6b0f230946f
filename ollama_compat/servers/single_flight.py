"""Work that one call does while the others that want it wait for its outcome: a single flight.

Calls that come while nobody is at work cost a lock each. Where calls meet, those that wait do so at an aiologic
semaphore, as threads and tasks alike may. Whoever works and is cancelled makes room for one of those who wait; whoever
has waited for too long begins anew, and the others wait for that one.
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
    """The work of one call."""

    over: bool = False
    waiting: int = 0
    queue: aiologic.Semaphore | None = None


class SingleFlight:
    """At most one call at a time does the work."""

    def __init__(self) -> None:
        """Nobody is at work."""
        # Reentrant: the garbage collector may close a forgotten call that is at work.
        self._lock = threading.RLock()
        self._flight: Flight | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is at work."""
        return self._flight is not None

    def shared(self, needed: Callable[[], bool], work: Steps[None], wait_s: float) -> Steps[None]:
        """`work`, or the end of another call's where nothing is `needed` after it any more.

        Raises what `work` raises; another call's failure is its own.
        """
        late: Flight | None = None
        while needed():
            flight, leads = self._boarded(late)
            if leads:
                yield from self._led(flight, needed, work)
                return
            queue = self._queue(flight)
            late = flight if queue is not None and not (yield AcquireSlot(queue, wait_s)) else None

    def _boarded(self, late: Flight | None) -> tuple[Flight, bool]:
        """The flight to wait for; True: it is the caller's own, who has found nobody at work but one that is late."""
        with self._lock:
            flight = self._flight
            if flight is not None and flight is not late:
                return flight, False
            self._flight = flight = Flight()
            return flight, True

    def _queue(self, flight: Flight) -> aiologic.Semaphore | None:
        """Where to wait for the end of a flight; None: it is over."""
        import aiologic  # a tenth of a second: only where calls meet

        with self._lock:
            if flight.over:
                return None
            flight.waiting += 1
            if flight.queue is None:
                flight.queue = aiologic.Semaphore(0)
            return flight.queue

    def _led(self, flight: Flight, needed: Callable[[], bool], work: Steps[None]) -> Steps[None]:
        try:
            if needed():  # another thread's work may have ended since it was asked
                yield from work
        finally:
            with self._lock:
                flight.over = True
                if self._flight is flight:
                    self._flight = None
            if flight.queue is not None:
                flight.queue.release(flight.waiting)
