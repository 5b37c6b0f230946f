"""When a call may begin: rates and places, first come first served.

A call first waits at its operation's rate, one caller at the head of the queue, then for one of the places that all
operations share. It waits as long as its client's timeout allows. A place is held until the answer is read to its end
or given up; whoever is cancelled or times out on the way leaves the queue.

The queues are aiologic's semaphores: one object that threads and tasks wait at alike, fair, and safe to cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..mapping.errors import rate_limited
from ..settings import RATES, Settings
from ..steps import AcquireSlot, Clock, Sleep, Steps, TakeToken

if TYPE_CHECKING:
    import aiologic

    from ..telemetry.stats import CallRecord


class Admission:
    """The limits of one client."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Without `vllm_limits` and `vllm_max_concurrent` there is nothing to wait for."""
        self._clock = clock
        self._rates: Mapping[str, str] = {}
        self._heads: dict[str, aiologic.Semaphore] = {}
        self._places: aiologic.Semaphore | None = None
        self._most = settings.places
        if settings.places is None:
            return
        import aiologic  # only where there are limits

        self._places = aiologic.Semaphore(settings.places)
        if settings.vllm_limits is not None:
            self._rates = settings.rates
            self._heads = {operation: aiologic.Semaphore(1) for operation in self._rates}

    def taken(self, running: CallRecord, timeout_s: float | None, exchange: Steps[None]) -> Steps[None]:
        """`exchange`, when its turn has come."""
        operation = running.operation
        if self._places is None or operation not in RATES:
            yield from exchange
            return
        running.waiting = True
        head = self._heads.get(operation)
        if head is not None:
            yield from self._entered(head, running, timeout_s, f"{self._rates[operation]}, {RATES[operation]}")
            try:
                yield from self._spent(running, timeout_s)
            finally:
                head.release()
        yield from self._entered(self._places, running, timeout_s, f"{self._most} at once, VLLM_MAX_CONCURRENT")
        running.waiting = False
        try:
            yield from exchange
        finally:
            self._places.release()

    def _entered(
        self, queue: aiologic.Semaphore, running: CallRecord, timeout_s: float | None, why: str
    ) -> Steps[None]:
        if not (yield AcquireSlot(queue, self._left(running, timeout_s))):
            raise rate_limited(running.operation, why, self._waited(running))

    def _spent(self, running: CallRecord, timeout_s: float | None) -> Steps[None]:
        while (wait := (yield TakeToken(running.operation))) > 0:
            left = self._left(running, timeout_s)
            if left is not None and wait > left:  # it would be refused after waiting, so it is refused now
                rate = f"{self._rates[running.operation]}, {RATES[running.operation]}"
                why = f"{rate}; the next turn comes in {wait:.1f} s, and {left:.1f} s are left of its timeout"
                raise rate_limited(running.operation, why, self._waited(running))
            yield Sleep(wait)

    def _waited(self, running: CallRecord) -> float:
        return (self._clock.ticks() - running.started) / 1e9

    def _left(self, running: CallRecord, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else max(0.0, timeout_s - self._waited(running))
