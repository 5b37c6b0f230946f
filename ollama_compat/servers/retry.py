"""How long to wait before the same servers are asked again, and when to give up. By tenacity's strategies.

A server's own `Retry-After` goes before the back-off. All waiting together stays within the caller's timeout.
"""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_exponential, wait_random

ATTEMPTS = 3
"""How often a call is tried, all of its servers counted as one try."""
FIRST_WAIT_S = 0.1
"""The first wait, before jitter (seconds). It doubles."""
MOST_WAIT_S = 2.0
"""The longest wait that is not the server's own `Retry-After` (seconds)."""
DEFAULT_BUDGET_S = 60.0
"""How long a call waits in all where its client has no timeout (seconds)."""

_STOP = stop_after_attempt(ATTEMPTS)
_WAIT = wait_exponential(multiplier=FIRST_WAIT_S, max=MOST_WAIT_S) + wait_random(0, FIRST_WAIT_S)


class RetrySchedule:
    """The waiting of one call."""

    def __init__(self, timeout_s: float | None) -> None:
        """`timeout_s`: the caller's own; None: `DEFAULT_BUDGET_S`."""
        self.left_s = DEFAULT_BUDGET_S if timeout_s is None else timeout_s
        self._state = RetryCallState(Retrying(), None, (), {})

    def wait(self, retry_after_s: float | None, elapsed_s: float) -> float | None:
        """The seconds until the next try; None: give up. `elapsed_s` has passed since the call began."""
        if _STOP(self._state):
            return None
        seconds = _WAIT(self._state) if retry_after_s is None else retry_after_s
        if elapsed_s + seconds > self.left_s:
            return None
        self._state.attempt_number += 1
        return seconds
