"""Rate limits: how many calls of an operation may start in a period. Calls are counted in memory or in Redis.

The package `limits` counts in Redis with a moving window: it stores the time of each admitted call, so no period ever
contains more calls than the rate allows. (A fixed window admits up to twice the rate around its boundary. A sliding
window counter estimates the previous window and, after a burst, also admits almost twice the rate.) One script checks
and takes atomically, so processes that share a Redis share the rates exactly. The cost is memory: about 20 bytes in
Redis for each call of a rate. The times come from the clocks of the hosts, which must be synchronized (NTP).

If Redis fails, each client counts its own calls in memory with the full rates: the service continues, and still has a
limit. The client retries Redis every `RETRY_S` seconds.

`AsyncRates` calls Redis in a worker thread. A connection of an asyncio Redis client belongs to the event loop that
opened it. A thread works with every event loop, with several consecutive loops, and with trio.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from ..steps import Clock, SystemClock
from ..telemetry.log import log_decision
from .storage_url import MEMORY, check_url, redact_error, redact_url, unusable_url

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.storage import StorageTypes
    from limits.strategies import MovingWindowRateLimiter
    from limits.util import WindowStats

NAMESPACE = "ollama-compat"
"""Prefix of the keys in Redis. The operation and the rate follow: `ollama-compat:chat/600/1/minute`."""
TIMEOUT_S = 0.5
"""Timeout of the connection to Redis, and of each reply (seconds)."""
RETRY_S = 10.0
"""Time from a failure of Redis to the next request to it (seconds)."""
MIN_WAIT_S = 0.001
"""Minimum wait that a refused call receives (seconds): 0.0 means that the call is admitted."""


def check(url: str, rates: Mapping[str, str]) -> None:
    """Raise `ValueError` if `url` or a rate is invalid. Opens no connection.

    Args:
        url: `memory://`, or a URL of Redis.
        rates: The rate of each operation in the notation of `limits`; several with a semicolon:
            `600/minute;20/second`.
    """
    check_url(url)
    for operation, rate in rates.items():
        _parse_rate(operation, rate)
    if url != MEMORY:
        _check_redis(url)


def _check_redis(url: str) -> None:
    try:
        importlib.import_module("redis")
    except ImportError:
        raise ValueError(
            f"{redact_url(url)!r} needs the package redis, which is not installed: pip install 'ollama-compat[redis]'"
        ) from None
    if url.startswith("redis+cluster:"):
        return  # `limits` connects to a cluster when it creates the storage
    try:
        storage: Any = _redis_storage(url, NAMESPACE)
        if not url.startswith("redis+sentinel:"):  # a connection object rejects unknown options; it is not opened
            pool = storage.storage.connection_pool
            pool.connection_class(**pool.connection_kwargs)
    except Exception as error:  # errors of `limits` and of redis-py; a TypeError for an unknown option
        raise unusable_url(url, redact_error(error, url)) from None


def _parse_rate(operation: str, rate: str) -> tuple[RateLimitItem, ...]:
    """The limits in `rate`, without duplicates, in the namespace of the operation."""
    from limits import parse_many  # the import takes 0.25 s: only if there are limits

    try:
        items = [type(item)(item.amount, item.multiples, operation) for item in parse_many(rate)]
    except ValueError:
        items = []
    if not items or any(item.amount < 1 for item in items):
        subject = f"the rate of {operation}" if operation else "the rate"
        raise ValueError(
            f"{subject} is {rate!r}; allowed: a number of calls, at least 1, per second, minute, hour or day, "
            "such as 600/minute or 100/5 minutes, or several of them: 600/minute;20/second"
        )
    return tuple(dict.fromkeys(items))


def _redis_storage(url: str, namespace: str) -> StorageTypes:
    from limits.storage import storage_from_string
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # The defaults of redis-py (8.1) are 5 s for each attempt and 10 retries.
    options: dict[str, Any] = {"socket_timeout": TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    if not url.startswith("redis+unix:"):
        options["socket_connect_timeout"] = TIMEOUT_S
    if url.startswith("redis+sentinel:"):
        options["sentinel_kwargs"] = dict(options)
    return storage_from_string(url, key_prefix=namespace, **options)


class MemoryWindow:
    """A moving window in memory. The one of `limits` starts a thread for each call that it counts."""

    def __init__(self) -> None:
        """Create an empty window."""
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def hit(self, item: RateLimitItem) -> bool:
        """Take one call of a rate. False: the rate is exhausted."""
        now = time.time()
        with self._lock:
            times = self._current(item, now)
            if len(times) >= item.amount:
                return False
            times.append(now)
            return True

    def get_window_stats(self, item: RateLimitItem) -> WindowStats:
        """Return when the oldest counted call expires (`time.time`), and how many calls the rate has left."""
        from limits.util import WindowStats

        now = time.time()
        with self._lock:
            times = self._current(item, now)
            return WindowStats((times[0] if times else now) + item.get_expiry(), item.amount - len(times))

    def _current(self, item: RateLimitItem, now: float) -> deque[float]:
        """The times of the calls that have not expired."""
        times = self._times.setdefault(item.key_for(), deque())
        while times and times[0] < now - item.get_expiry():
            times.popleft()
        return times


def _take(limiter: MemoryWindow | MovingWindowRateLimiter, items: Sequence[RateLimitItem]) -> float:
    """Take one call from all `items` and return 0.0, or take none and return the wait until the next attempt (s).

    With several items, all are checked before any is taken. Between the check and the take, another process may take
    the last call of one item, and calls already taken from other items are not returned. Therefore the fullest item
    comes first: a call is lost only if a second item is nearly full too. A loss makes the limit stricter, never looser.
    """
    if len(items) > 1:
        states = [(limiter.get_window_stats(item), item) for item in items]
        waits = [_wait(state.reset_time, item) for state, item in states if state.remaining < 1]
        if waits:
            return max(waits)
        items = [item for _, item in sorted(states, key=lambda pair: pair[0].remaining)]
    for item in items:
        if not limiter.hit(item):
            return _wait(limiter.get_window_stats(item).reset_time, item)
    return 0.0


def _wait(reset_time: float, item: RateLimitItem) -> float:
    """Seconds until `reset_time` (a `time.time`): at least `MIN_WAIT_S`, at most the period of the rate."""
    return min(max(reset_time - time.time(), MIN_WAIT_S), float(item.get_expiry()))


class SyncRates:
    """The rate limits of a `Client`, by operation. Thread-safe. A forked process creates a new object."""

    def __init__(
        self, url: str, rates: Mapping[str, str], *, namespace: str = NAMESPACE, clock: Clock | None = None
    ) -> None:
        """Create the limits; opens no connection.

        Args:
            url: As for `check`.
            rates: As for `check`.
            namespace: Clients with the same namespace and the same Redis share the rates.
            clock: Times the retries of Redis. Default: the system clock.

        Raises:
            ValueError: `url` or a rate is invalid.
        """
        check(url, rates)
        self._url = url
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._items = {operation: _parse_rate(operation, rate) for operation, rate in rates.items()}
        self._lock = threading.Lock()
        self._local = MemoryWindow()
        self._shared: MovingWindowRateLimiter | None = None
        self._retry_at: int | None = None  # ticks; None: Redis works

    @property
    def in_memory(self) -> bool:
        """Whether calls are counted in memory only, so that `spend` does no I/O."""
        return self._url == MEMORY

    def spend(self, operation: str) -> float:
        """Take one call and return 0.0, or return the wait until the next attempt (seconds).

        An operation without a rate is always admitted.
        """
        items = self._items.get(operation, ())
        if not items:
            return 0.0
        if self.in_memory or not self._should_use_redis():
            return _take(self._local, items)
        try:
            wait = _take(self._redis_limiter(), items)
        except Exception as error:  # no failure of the storage may fail a call
            self._redis_failed(error)
            return _take(self._local, items)
        self._redis_succeeded()
        return wait

    def _redis_limiter(self) -> MovingWindowRateLimiter:
        # Without the lock, because this may connect to a cluster. Two threads at worst create one object too many.
        if self._shared is None:
            from limits.strategies import MovingWindowRateLimiter

            self._shared = MovingWindowRateLimiter(_redis_storage(self._url, self._namespace))
        return self._shared

    def _should_use_redis(self) -> bool:
        """Whether Redis works, or a retry is due. One caller makes the retry; the others continue in memory."""
        with self._lock:
            if self._retry_at is None:
                return True
            now = self._clock.ticks()
            if now < self._retry_at:
                return False
            self._retry_at = now + round(RETRY_S * 1e9)
            return True

    def _redis_failed(self, error: Exception) -> None:
        with self._lock:
            first = self._retry_at is None
            self._retry_at = self._clock.ticks() + round(RETRY_S * 1e9)
        if first:
            log_decision(
                "rate storage failed",
                redact_error(error, self._url),
                storage=redact_url(self._url),
                retry_s=RETRY_S,
                action="this client counts its own calls with the full rates",
            )

    def _redis_succeeded(self) -> None:
        with self._lock:
            restored = self._retry_at is not None
            self._retry_at = None
        if restored:
            log_decision("rate storage restored", storage=redact_url(self._url), action="clients share the rates again")


class AsyncRates:
    """The rate limits of an `AsyncClient`: a `SyncRates` that never blocks the event loop."""

    def __init__(
        self, url: str, rates: Mapping[str, str], *, namespace: str = NAMESPACE, clock: Clock | None = None
    ) -> None:
        """Create the limits; the arguments are those of `SyncRates`."""
        self._rates = SyncRates(url, rates, namespace=namespace, clock=clock)

    async def spend(self, operation: str) -> float:
        """Like `SyncRates.spend`."""
        if self._rates.in_memory:
            return self._rates.spend(operation)
        # A separate capacity limiter: the service may use all threads of the default one.
        return await anyio.to_thread.run_sync(self._rates.spend, operation, limiter=anyio.CapacityLimiter(1))
