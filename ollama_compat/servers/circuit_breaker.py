"""A circuit breaker for each server: `FAILURES` failures in a row open the circuit for `OPEN_S` seconds.

After that time the circuit is half-open: one call goes through as a probe. Its success closes the circuit, its failure
opens it again. Only failures of the server count (failures.py). A timeout counts only if the server has answered no
call for `QUIET_S` seconds, so that one caller's short timeout does not take a slow server away from the others.

Breaker libraries do not fit here: they hold a lock during the call, let every waiting call through as a probe, or read
the system clock themselves.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half-open"]

FAILURES = 5
"""Failures in a row that open a circuit."""
OPEN_S = 10.0
"""How long a circuit stays open (seconds)."""
QUIET_S = 10.0
"""A timeout counts if the server has answered no call for this long (seconds)."""


@dataclass
class CircuitBreaker:
    """The circuit of one server. Times are ticks of a `Clock` (nanoseconds)."""

    failures: int = 0
    last_failure: str = ""
    """The message of the last failure."""
    closed: bool = True
    """Whether all calls go through."""
    answered_at: int | None = None
    """When the server last answered a call."""
    _open_until: int | None = None
    """When a probe may begin; None while the circuit is closed."""
    _probe_since: int | None = None
    """When the current probe began."""
    # Reentrant: the garbage collector may close a forgotten call, which ends its probe, inside any of these methods.
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def state(self, now: int) -> State:
        """Closed: calls go through. Open: none does. Half-open: one may, as a probe."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def allows(self, now: int) -> bool:
        """Whether a call would go through."""
        if self._open_until is None:
            return True
        return now >= self._open_until and not self._probing(now)

    def admit(self, now: int) -> bool:
        """Let a call through if the circuit allows it. A half-open circuit admits one probe at a time."""
        with self._lock:
            if not self.allows(now):
                return False
            if self._open_until is not None:
                self._probe_since = now
            return True

    def seconds_left(self, now: int) -> float:
        """How long the circuit stays open (seconds)."""
        return 0.0 if self._open_until is None else max(0.0, (self._open_until - now) / 1e9)

    def record_success(self, now: int) -> bool:
        """Note that the server answered a call. Returns whether this closed the circuit; only a probe can."""
        self.answered_at = now
        if not self.failures and self._open_until is None:
            return False
        with self._lock:
            if self._open_until is not None and self._probe_since is None:
                return False  # a call that began before the circuit opened
            closed = self._open_until is not None
            self.failures, self._open_until, self._probe_since, self.closed = 0, None, None, True
            return closed

    def record_reply(self, now: int) -> None:
        """Note that the server replied to some request: a timeout soon after does not count."""
        self.answered_at = now

    def record_failure(self, now: int, cause: str) -> bool:
        """Note that the server failed. Returns whether this opened the circuit."""
        with self._lock:
            self.failures += 1
            self.last_failure = cause
            if self._open_until is not None and self._probe_since is None:
                return False  # already open: calls that began before fail one after another
            if self._open_until is None and self.failures < FAILURES:
                return False
            self._open_until, self._probe_since, self.closed = now + int(OPEN_S * 1e9), None, False
            return True

    def record_timeout(self, now: int, cause: str) -> bool:
        """Note that the server did not answer within a caller's timeout. Returns whether this opened the circuit."""
        if self.answered_at is not None and now - self.answered_at < QUIET_S * 1e9:
            return False
        return self.record_failure(now, cause)

    def release_probe(self) -> None:
        """Note that a call ended without a result: if it was the probe, another call may be."""
        if self._probe_since is not None:
            with self._lock:
                self._probe_since = None

    def _probing(self, now: int) -> bool:
        # A probe that never ends (a stream that the caller does not read on) must not block the server for good.
        return self._probe_since is not None and now - self._probe_since < OPEN_S * 1e9
