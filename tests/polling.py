"""Polling for a condition that becomes true after some time, such as a counter in the metrics of a server.

A test that reads such a value once depends on the speed of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 120.0
"""Default deadline in seconds. It is reached only if the condition never becomes true."""
_INTERVAL_S = 0.1

T = TypeVar("T")


def eventually(read: Callable[[], T], within: float = PATIENCE_S) -> T:
    """Call `read` until its result is true, for at most `within` seconds. Returns the last result."""
    deadline = time.monotonic() + within
    while not (value := read()) and time.monotonic() < deadline:
        time.sleep(_INTERVAL_S)
    return value
