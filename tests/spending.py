"""Take calls from a rate limiter, synchronous or asynchronous, until it refuses one."""

from __future__ import annotations

import asyncio
from typing import Any

from ollama_compat.limits.rates import AsyncRates, SyncRates


def spend(limiter: SyncRates | AsyncRates, operation: str) -> float:
    """Take one call. An asynchronous limiter runs in a new event loop."""
    outcome = limiter.spend(operation)
    return outcome if isinstance(outcome, float) else asyncio.run(_await(outcome))


async def _await(outcome: Any) -> float:
    return await outcome


def admit_all(limiter: SyncRates | AsyncRates, operation: str) -> tuple[int, float]:
    """The number of consecutive calls that are admitted, and the wait of the next call (seconds)."""
    if isinstance(limiter, AsyncRates):
        return asyncio.run(_admit_all(limiter, operation))
    count = 0
    while not (wait := limiter.spend(operation)):
        count += 1
    return count, wait


async def _admit_all(limiter: AsyncRates, operation: str) -> tuple[int, float]:
    count = 0
    while not (wait := await limiter.spend(operation)):
        count += 1
    return count, wait
