"""How long a call waits before it retries the same servers, and when it stops: exponential backoff with jitter.

A server's `Retry-After` replaces the backoff. All waits together stay within the caller's timeout.
"""

from __future__ import annotations

import random

ROUNDS = 3
"""How many times a call tries its servers; all servers of a model count as one round."""
FIRST_WAIT_S = 0.1
"""The first wait, and the range of the jitter (seconds). The wait doubles each time."""
MAX_WAIT_S = 2.0
"""The longest backoff (seconds); a `Retry-After` may be longer."""
DEFAULT_BUDGET_S = 60.0
"""How long a call waits in all if its client has no timeout (seconds)."""


def backoff(round_number: int) -> float:
    """The wait after round `round_number`, counted from 1 (seconds)."""
    wait: float = min(FIRST_WAIT_S * 2 ** (round_number - 1), MAX_WAIT_S)
    return wait + random.uniform(0, FIRST_WAIT_S)


class RetrySchedule:
    """The waits of one call at one backend."""

    def __init__(self, timeout_s: float | None) -> None:
        """`timeout_s`: the caller's timeout; None: `DEFAULT_BUDGET_S`."""
        self.budget_s = DEFAULT_BUDGET_S if timeout_s is None else timeout_s
        self._round = 1

    def next_wait(self, retry_after_s: float | None, elapsed_s: float) -> float | None:
        """The seconds until the next round; None: no further round. `elapsed_s` has passed since the call began."""
        if self._round >= ROUNDS:
            return None
        seconds = backoff(self._round) if retry_after_s is None else retry_after_s
        if elapsed_s + seconds > self.budget_s:
            return None
        self._round += 1
        return seconds
