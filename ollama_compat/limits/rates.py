"""Rates: how many calls of an operation may begin in a time, counted in memory or, shared, in Redis by `limits`.

The moving window counts: it keeps the moment of every call that was let through, so no stretch of a minute ever holds
more than "N a minute" allows. (A fixed window lets 2N through around its edge; a sliding window counter weighs the
window before as if its calls had come evenly, and after a burst lets almost 2N through as well.) In Redis one script
looks and takes, so processes never share a place. Its price is memory: about 20 bytes in Redis for each call of a rate.
The moments are those of the hosts' clocks, which have to agree, as NTP keeps them.

Where Redis can't be asked, calls are counted in memory, each client for itself with the whole rates: better than no
limit, and better than no service. Redis is asked again every `RETRY_S` seconds.

`AsyncRates` does the same in a worker thread. An asyncio Redis connection belongs to the event loop that opened it; a
thread serves any loop, several one after another, and trio.
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio

from ..mapping.errors import printable
from ..steps import Clock, SystemClock
from ..telemetry.log import DECISIONS, write

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.storage import StorageTypes
    from limits.strategies import MovingWindowRateLimiter
    from limits.util import WindowStats


MEMORY = "memory://"
REDIS = ("redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster")
"""URL schemes of `limits` that lead to Redis: plain, TLS, a Unix socket, through sentinels, a cluster."""
MAY_HOLD = (
    "memory://, redis://host:port/db, rediss://host:port/db, redis+unix:///path, "
    "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port"
)
NAMESPACE = "ollama-compat"
"""What the keys in Redis begin with; the operation and the rate follow: `ollama-compat:chat/600/1/minute`."""
TIMEOUT_S = 0.5
"""How long connecting to Redis, and each reply of it, may take (seconds)."""
RETRY_S = 10.0
"""How long Redis is left alone after it failed (seconds)."""
MIN_WAIT_S = 0.001
"""The shortest wait that is told (seconds): 0.0 means that the call was let through."""


_SHOWN = 200  # characters of a reason that the log quotes: a sentinel's error lists every option of the connection
_HOST = r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d+)?"
_URL = re.compile(
    rf"(?P<scheme>[a-z0-9+.-]+)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>{_HOST}(?:,{_HOST})*)?(?P<path>/[^?#@]*)?"
    r"(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)


def shown(url: str) -> str:
    """`url` without a user, a password or a query: what logs and errors may show."""
    parts = _URL.fullmatch(url)
    if parts is not None:
        hidden = "" if parts["user"] is None else "***@"
        return f"{parts['scheme']}://{hidden}{parts['hosts'] or ''}{parts['path'] or ''}"
    scheme, separator, _ = url.partition("://")
    if separator:  # where a password stands in it can't be told
        return f"{scheme}://***" if scheme.isalnum() else "***"
    return "***" if any(mark in url for mark in ":@") else url


def check(url: str, rates: Mapping[str, str]) -> None:
    """Raise `ValueError` where `url` or a rate can't be used. Connects to nothing.

    `rates`: operation -> its rate as `limits` writes them, several with a semicolon: `600/minute;20/second`.
    """
    parts = _URL.fullmatch(url)
    if url != MEMORY and (parts is None or parts["scheme"] not in REDIS or not (parts["hosts"] or parts["path"])):
        raise ValueError(f"{shown(url)!r} is no place to count calls in; it may be {MAY_HOLD}")
    for operation, rate in rates.items():
        _items(operation, rate)
    if url != MEMORY:
        _check_redis(url)


def _check_redis(url: str) -> None:
    try:
        importlib.import_module("redis")
    except ImportError:
        raise ValueError(
            f"{shown(url)!r} needs the package redis, which is not installed: pip install 'ollama-compat[redis]'"
        ) from None
    try:
        if url.startswith("redis+cluster:"):  # `limits` connects to a cluster as soon as it is told of one
            if not re.fullmatch(r"[^/]+:\d+(,[^/]+:\d+)*/?", url.rpartition("@")[2].removeprefix("redis+cluster://")):
                raise ValueError("each place is host:port")
            return
        storage: Any = _storage(url, NAMESPACE)
        if not url.startswith("redis+sentinel:"):  # made, not opened: a connection refuses unknown words of the query
            pool = storage.storage.connection_pool
            pool.connection_class(**pool.connection_kwargs)
    except Exception as problem:  # of `limits`, of redis-py, and the TypeError of a word that it does not know
        raise ValueError(f"{shown(url)!r} can't be used ({_reason(problem, url)}); it may be {MAY_HOLD}") from None


def _items(operation: str, rate: str) -> tuple[RateLimitItem, ...]:
    """The rates that `rate` writes, each once, under the operation's name."""
    from limits import parse_many  # a quarter of a second to import: only where there are limits

    try:
        items = [type(item)(item.amount, item.multiples, operation) for item in parse_many(rate)]
    except ValueError:
        items = []
    if not items or any(item.amount < 1 for item in items):
        which = f"the rate of {operation}" if operation else "the rate"
        raise ValueError(
            f"{which} is {rate!r}; it may be a number of calls, at least 1, per second, minute, hour "
            "or day, such as 600/minute or 100/5 minutes, or several of them: 600/minute;20/second"
        )
    return tuple(dict.fromkeys(items))


def _storage(url: str, namespace: str) -> StorageTypes:
    from limits.storage import storage_from_string
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Without this redis-py tries for many seconds: 5 s each time, 10 times more (8.1).
    options: dict[str, Any] = {"socket_timeout": TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    if not url.startswith("redis+unix:"):
        options["socket_connect_timeout"] = TIMEOUT_S
    if url.startswith("redis+sentinel:"):
        options["sentinel_kwargs"] = dict(options)
    return storage_from_string(url, key_prefix=namespace, **options)


class Window:
    """A moving window in memory. `limits` has one as well, which starts a thread each time that a call is counted."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._lock = threading.Lock()
        self._moments: dict[str, deque[float]] = {}

    def hit(self, item: RateLimitItem) -> bool:
        """Take one call of a rate; False: it is spent."""
        now = time.time()
        with self._lock:
            moments = self._counted(item, now)
            if len(moments) >= item.amount:
                return False
            moments.append(now)
            return True

    def get_window_stats(self, item: RateLimitItem) -> WindowStats:
        """When the oldest call that counts no longer does (`time.time`), and how many calls are left of a rate."""
        from limits.util import WindowStats

        now = time.time()
        with self._lock:
            moments = self._counted(item, now)
            return WindowStats((moments[0] if moments else now) + item.get_expiry(), item.amount - len(moments))

    def _counted(self, item: RateLimitItem, now: float) -> deque[float]:
        """The moments of the calls that still count."""
        moments = self._moments.setdefault(item.key_for(), deque())
        while moments and moments[0] < now - item.get_expiry():
            moments.popleft()
        return moments


def _limiter(storage: StorageTypes) -> MovingWindowRateLimiter:
    from limits.strategies import MovingWindowRateLimiter

    return MovingWindowRateLimiter(storage)


def _reason(problem: Exception, url: str) -> str:
    """What an exception says, without the secrets of `url`."""
    text = f"{type(problem).__name__}: {problem}".replace(url, shown(url))
    parts = _URL.fullmatch(url)
    secrets = set()
    if parts is not None:
        secrets.add((parts["user"] or "").partition(":")[2])
        pairs = (pair.partition("=") for pair in (parts["query"] or "").split("&"))
        secrets.update(value for name, _, value in pairs if "password" in name)
    for secret in sorted({form for raw in secrets for form in (raw, unquote(raw)) if form}, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = printable(" ".join(text.split()))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _spend(limiter: Window | MovingWindowRateLimiter, items: Sequence[RateLimitItem]) -> float:
    """Take one call from each of `items`, or from none; else the seconds until it is worth asking again.

    With several, all are looked at before any is taken from. In between another process may take the last place of
    one, and what was taken from others by then is not given back. The fullest comes first, so this can only happen
    where a second one is nearly full too. It costs that one a single place: less is let through, never more.
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
    """Seconds until `reset_time`, which `limits` gives in seconds of `time.time`; at most the rate's whole time."""
    return min(max(reset_time - time.time(), MIN_WAIT_S), float(item.get_expiry()))


class SyncRates:
    """The rates of a `Client`, by operation. Threads may share it; a forked process makes its own."""

    def __init__(
        self, url: str, rates: Mapping[str, str], *, namespace: str = NAMESPACE, clock: Clock | None = None
    ) -> None:
        """`url` and `rates` as `check` takes them. `namespace`: those who share it in one Redis share the rates."""
        check(url, rates)
        self._url = url
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._items = {operation: _items(operation, rate) for operation, rate in rates.items()}
        self._lock = threading.Lock()
        self._here = Window()
        self._shared: MovingWindowRateLimiter | None = None
        self._retry_at: int | None = None  # in ticks; None: Redis answers

    @property
    def in_memory(self) -> bool:
        """Whether no Redis is asked, so that `spend` never waits for anything."""
        return self._url == MEMORY

    def spend(self, operation: str) -> float:
        """Take one call: 0.0, or the seconds until it is worth asking again. What has no rate is let through."""
        items = self._items.get(operation, ())
        if not items:
            return 0.0
        if self.in_memory or not self._redis_is_due():
            return _spend(self._here, items)
        try:
            wait = _spend(self._counted_in_redis(), items)
        except Exception as problem:  # whatever is wrong with the place of the counts, the service goes on
            self._lost(problem)
            return _spend(self._here, items)
        self._found()
        return wait

    def _counted_in_redis(self) -> MovingWindowRateLimiter:
        # Not under the lock, a cluster is connected to here; two threads at once only open a connection too many.
        if self._shared is None:
            self._shared = _limiter(_storage(self._url, self._namespace))
        return self._shared

    def _redis_is_due(self) -> bool:
        """Whether Redis answers, or has been left alone for long enough: then one caller tries, the others don't."""
        with self._lock:
            if self._retry_at is None:
                return True
            now = self._clock.ticks()
            if now < self._retry_at:
                return False
            self._retry_at = now + round(RETRY_S * 1e9)
            return True

    def _lost(self, problem: Exception) -> None:
        with self._lock:
            is_news = self._retry_at is None
            self._retry_at = self._clock.ticks() + round(RETRY_S * 1e9)
        if is_news:
            place, reason = shown(self._url), _reason(problem, self._url)
            write(
                DECISIONS,
                "rates_lost",
                "The rates can't be counted in %(limits)s (%(reason)s). Until they can, this client counts for itself, "
                "with the whole rates; %(limits)s is asked again every %(retry_s)g s.",
                {"limits": place, "reason": reason, "retry_s": RETRY_S},
            )

    def _found(self) -> None:
        with self._lock:
            is_news = self._retry_at is not None
            self._retry_at = None
        if is_news:
            facts: dict[str, object] = {"limits": shown(self._url)}
            write(DECISIONS, "rates_found", "The rates are counted in %(limits)s again.", facts)


class AsyncRates:
    """The rates of an `AsyncClient`: `SyncRates`, which no event loop waits for."""

    def __init__(
        self, url: str, rates: Mapping[str, str], *, namespace: str = NAMESPACE, clock: Clock | None = None
    ) -> None:
        """As `SyncRates`."""
        self._rates = SyncRates(url, rates, namespace=namespace, clock=clock)

    async def spend(self, operation: str) -> float:
        """As `SyncRates.spend`."""
        if self._rates.in_memory:
            return self._rates.spend(operation)
        # A limiter of its own: the service's worker threads may all be taken.
        return await anyio.to_thread.run_sync(self._rates.spend, operation, limiter=anyio.CapacityLimiter(1))
