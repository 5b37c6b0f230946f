"""Calls taken from a rate until none is let through, whichever kind of limiter it is."""

from __future__ import annotations

import asyncio
from typing import Any

from ollama_compat.limits.rates import AsyncRates, SyncRates


def spend(limiter: SyncRates | AsyncRates, operation: str) -> float:
    """One call; an asynchronous limiter gets a new event loop for it."""
    outcome = limiter.spend(operation)
    return outcome if isinstance(outcome, float) else asyncio.run(_awaited(outcome))


async def _awaited(outcome: Any) -> float:
    return await outcome


def let_through(limiter: SyncRates | AsyncRates, operation: str) -> tuple[int, float]:
    """How many calls in a row are let through, and how long the next one is told to wait (seconds)."""
    if isinstance(limiter, AsyncRates):
        return asyncio.run(_let_through(limiter, operation))
    count = 0
    while not (wait := limiter.spend(operation)):
        count += 1
    return count, wait


async def _let_through(limiter: AsyncRates, operation: str) -> tuple[int, float]:
    count = 0
    while not (wait := await limiter.spend(operation)):
        count += 1
    return count, wait
