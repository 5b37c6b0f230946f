"""A circuit breaker for each server: after `FAILURES` failures in a row it is left alone for `OPEN_S`.

Then one call is let through on trial: its success closes the circuit, its failure opens it for as long again. Only what
is the server's fault counts (failures.py). That a caller's time was up counts once the server has answered nobody for
`QUIET_S`: a call with a short timeout does not keep the others from a server that is merely slow, and one that hangs
for all is left alone. The libraries there are don't fit a client that is sync or async by turns:
they hold a lock while the call runs, let every waiting call through on trial, or read the machine's own clock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half-open"]

FAILURES = 5
"""Failures in a row that open a circuit."""
OPEN_S = 10.0
"""How long a server is left alone (seconds)."""
QUIET_S = 10.0
"""How long a server must have answered nobody before a timeout counts (seconds)."""


@dataclass
class CircuitBreaker:
    """The circuit of one server. Times are ticks of a `Clock` (nanoseconds)."""

    failures: int = 0
    last: str = ""
    """What the last failure said."""
    _until: int | None = None
    """When a trial may begin; None while the circuit is closed."""
    _trial: int | None = None
    """When the trial that runs began."""
    _heard: int | None = None
    """When it last answered."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def closed(self) -> bool:
        """Whether calls go through, as they do while all is well."""
        return self._until is None

    def state(self, now: int) -> State:
        """Closed: calls go through. Open: none does. Half-open: one may, on trial."""
        if self._until is None:
            return "closed"
        return "open" if now < self._until else "half-open"

    def allows(self, now: int) -> bool:
        """Whether a call would be let through."""
        if self._until is None:
            return True
        return now >= self._until and not self._on_trial(now)

    def admit(self, now: int) -> bool:
        """Let a call through, if one may go; on trial there is only one at a time."""
        with self._lock:
            if not self.allows(now):
                return False
            if self._until is not None:
                self._trial = now
            return True

    def seconds_left(self, now: int) -> float:
        """How long the server is still left alone."""
        return 0.0 if self._until is None else max(0.0, (self._until - now) / 1e9)

    def succeeded(self, now: int) -> bool:
        """The server did its part. Returns whether that closed the circuit; only a trial can."""
        self.heard(now)
        if not self.failures and self._until is None:
            return False
        with self._lock:
            if self._until is not None and self._trial is None:
                return False  # a call from before: the server was told well by many since
            closed = self._until is not None
            self.failures, self._until, self._trial = 0, None, None
            return closed

    def heard(self, now: int) -> None:
        """The server has answered somebody: a timeout soon after tells nothing of it."""
        self._heard = now

    def failed(self, now: int, why: str) -> bool:
        """The server failed. Returns whether that opened the circuit."""
        with self._lock:
            self.failures += 1
            self.last = why
            if self._until is not None and self._trial is None:
                return False  # open already: calls from before fail one after another
            if self._until is None and self.failures < FAILURES:
                return False
            self._until, self._trial = now + int(OPEN_S * 1e9), None
            return True

    def late(self, now: int, why: str) -> bool:
        """The server did not answer within a caller's timeout. Returns whether that opened the circuit."""
        if self._heard is not None and now - self._heard < QUIET_S * 1e9:
            return False
        return self.failed(now, why)

    def left(self) -> None:
        """A call ended without telling anything of the server: if it was on trial, another may be."""
        if self._trial is not None:
            with self._lock:
                self._trial = None

    def _on_trial(self, now: int) -> bool:
        # A trial whose end nobody told of (a stream that is never read on) does not keep the server away for good.
        return self._trial is not None and now - self._trial < OPEN_S * 1e9
