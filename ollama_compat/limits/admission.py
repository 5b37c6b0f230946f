"""Admission: when a call may begin, under the rates and the limit of concurrent calls, first come first served.

A call first waits for its operation's rate, one call at a time at the head of the queue, and then for one of the
concurrency slots that all operations share. It waits as long as its client's timeout allows. It holds the slot until
the answer is complete or the caller closes it; a call that is cancelled or times out leaves the queue.

The queues are aiologic semaphores: threads and tasks may share them, they are fair, and cancellation is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..mapping.errors import rate_limited
from ..steps import AcquireSlot, Clock, Sleep, Steps, TakeToken

if TYPE_CHECKING:
    import aiologic

    from ..telemetry.call_record import CallRecord


class Admission:
    """The limits of one client."""

    def __init__(self, clock: Clock, slots: int, rates: Mapping[str, str], variables: Mapping[str, str]) -> None:
        """`slots`: how many calls may run at once.

        `rates`: the rate of each limited operation, such as `600/minute`. `variables`: the environment variable of the
        rate of each operation that needs a slot.
        """
        import aiologic  # takes a tenth of a second to import: only where there are limits

        self._clock, self._slot_count, self._rates, self._variables = clock, slots, rates, variables
        self._slots = aiologic.Semaphore(slots)
        self._queues = {operation: aiologic.Semaphore(1) for operation in rates}

    def acquire(self, record: CallRecord, timeout_s: float | None) -> Steps[None]:
        """Wait until the call may begin. Raises `RateLimited` if that takes longer than the caller's timeout."""
        record.waiting = True
        queue = self._queues.get(record.operation)
        if queue is not None:
            yield from self._wait_in(queue, record, timeout_s, self._rate(record.operation))
            try:
                yield from self._take_token(record, timeout_s)
            finally:
                queue.release()
        yield from self._wait_in(self._slots, record, timeout_s, f"{self._slot_count} at once, VLLM_MAX_CONCURRENT")
        record.waiting = False

    def release(self) -> None:
        """Return the slot of a call that has ended."""
        self._slots.release()

    def _wait_in(
        self, queue: aiologic.Semaphore, record: CallRecord, timeout_s: float | None, limit: str
    ) -> Steps[None]:
        if not (yield AcquireSlot(queue, self._left(record, timeout_s))):
            raise rate_limited(record.operation, limit, self._waited(record))

    def _take_token(self, record: CallRecord, timeout_s: float | None) -> Steps[None]:
        while (wait := (yield TakeToken(record.operation))) > 0:
            left = self._left(record, timeout_s)
            if left is not None and wait > left:  # the call would fail after the wait, so it fails now
                limit = f"{self._rate(record.operation)}; the rate allows the next call in {wait:.1f} s, and the "
                limit += f"caller's timeout ends in {left:.1f} s"
                raise rate_limited(record.operation, limit, self._waited(record))
            yield Sleep(wait)

    def _rate(self, operation: str) -> str:
        return f"{self._rates[operation]}, {self._variables[operation]}"

    def _waited(self, record: CallRecord) -> float:
        return (self._clock.ticks() - record.started) / 1e9

    def _left(self, record: CallRecord, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else max(0.0, timeout_s - self._waited(record))
