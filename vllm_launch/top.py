"""Live figures of servers: requests `/metrics` from all of them concurrently and shows one table row for each.

    for rows in looks(lambda: [Target("vllm-llm", "http://127.0.0.1:8001")], interval_s=2):
        console.print(view(rows))

The row of a server that does not answer, answers too late, or returns something else contains the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import httpx
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .metrics import Figures, NotMetricsError, Page, figures, read
from .runtimes.base import Instance
from .runtimes.base import State as ProcessState

TIMEOUT_S = 3.0
"""Timeout of a request (seconds). A shorter interval shortens the timeout."""
_MAX_BYTES = 16 * 2**20  # a vLLM page has about 100 KB for each engine

State: TypeAlias = Literal["ready", "starting", "slow", "down", "no-metrics", "restarting", "exited"]
"""ready: the figures are there. starting: the process runs but does not answer yet. slow: no answer in time.
down: no server answers. no-metrics: the answer contains no vLLM figures. restarting, exited: the runtime's state."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to watch."""

    name: str
    url: str
    """The base URL, without `/v1`."""
    process: ProcessState | None = None
    """The state in its runtime; None if no runtime on this machine has the server."""
    ended: str = ""
    """How the process ended, in words."""

    @classmethod
    def of(cls, instance: Instance) -> Target:
        """The target of a runtime's server."""
        return cls(instance.name, instance.server.base_url, instance.state, instance.ended)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one look at one server."""

    name: str
    url: str
    state: State
    reason: str = ""
    """Why the row has no figures; empty if it has."""
    figures: Figures | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; `figures` may be null."""
        values = self.figures.to_json() if self.figures else None
        return {"name": self.name, "url": self.url, "state": self.state, "reason": self.reason, "figures": values}


class _UnansweredError(Exception):
    """A server returned no page: the resulting state and the reason."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class Watch:
    """Requests the figures of servers repeatedly, and computes the rates between two requests."""

    def __init__(self) -> None:
        """Create the HTTP client. It opens no connection yet."""
        self._runner = asyncio.Runner()
        # It ignores the proxy variables. It keeps no connections: a server may close one just as the next look begins.
        self._http = httpx.AsyncClient(trust_env=False, timeout=None, limits=httpx.Limits(max_keepalive_connections=0))
        self._earlier: dict[str, tuple[Page, float]] = {}

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connections."""
        self._runner.run(self._http.aclose())
        self._runner.close()

    def look(self, targets: Sequence[Target], timeout_s: float = TIMEOUT_S) -> list[Row]:
        """Request the figures of all targets. A server's first row covers the time since the server's start."""
        answers = self._runner.run(self._ask_all(targets, timeout_s))
        return [self._row(target, answer) for target, answer in zip(targets, answers, strict=True)]

    async def _ask_all(self, targets: Sequence[Target], timeout_s: float) -> list[tuple[str, float] | _UnansweredError]:
        return await asyncio.gather(*(self._ask(target, timeout_s) for target in targets))

    async def _ask(self, target: Target, timeout_s: float) -> tuple[str, float] | _UnansweredError:
        """The page and the time of its arrival, on the monotonic clock."""
        if target.process in ("exited", "restarting"):
            return _UnansweredError(target.process, f"the process has ended {target.ended}".rstrip())
        try:
            async with asyncio.timeout(timeout_s):
                return await self._page(f"{target.url}/metrics"), time.monotonic()
        except TimeoutError:
            return _UnansweredError("slow", f"{target.url} did not answer within {timeout_s:g} s")
        except _UnansweredError as problem:
            return problem
        except httpx.HTTPError as problem:
            state: State = "starting" if target.process == "running" else "down"
            return _UnansweredError(state, f"{target.url} does not answer: {problem or type(problem).__name__}")

    async def _page(self, url: str) -> str:
        async with self._http.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise _UnansweredError("no-metrics", f"GET {url} returned {response.status_code}")
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise _UnansweredError("no-metrics", f"GET {url} returned more than {_MAX_BYTES >> 20} MB")
        return body.decode("utf-8", "replace")

    def _row(self, target: Target, answer: tuple[str, float] | _UnansweredError) -> Row:
        if isinstance(answer, _UnansweredError):
            return Row(target.name, target.url, answer.state, str(answer))
        text, now = answer
        try:
            page = read(text)
        except NotMetricsError as problem:
            return Row(target.name, target.url, "no-metrics", f"{target.url}/metrics: {problem}")
        earlier, then = self._earlier.get(target.url, (None, now))
        self._earlier[target.url] = (page, now)
        return Row(target.name, target.url, "ready", figures=figures(page, earlier, now - then))


def looks(targets: Callable[[], Sequence[Target]], interval_s: float) -> Generator[list[Row]]:
    """Yield the rows every `interval_s` seconds, endlessly. `targets` is called before each look."""
    with Watch() as watch:
        while True:
            began = time.monotonic()
            yield watch.look(targets(), min(TIMEOUT_S, interval_s))
            time.sleep(max(0.0, began + interval_s - time.monotonic()))


def to_json(rows: Sequence[Row], at: float) -> dict[str, Any]:
    """The rows of one look as a JSON object; `at`: seconds since 1970."""
    return {"at": round(at, 3), "servers": [row.to_json() for row in rows]}


WIDTH = 100
"""The width of a terminal that shows all figures. A narrower one shows the most important ones."""
_COLORS: dict[State, str] = {"ready": "green", "starting": "yellow", "restarting": "yellow", "slow": "yellow"}
_DASH = "–"


class _Column(NamedTuple):
    head: str
    cell: Callable[[Figures], str]
    narrow: bool = True
    """Whether narrow terminals show the column."""


_TOTALS = (
    _Column("tok\nin", lambda figures: _count(figures.prompt_tokens)),
    _Column("tok\nout", lambda figures: _count(figures.generation_tokens)),
)
_RATES = (
    _Column("tok/s\nin", lambda figures: _count(figures.prompt_tokens_per_second)),
    _Column("tok/s\nout", lambda figures: _count(figures.generation_tokens_per_second)),
)
_LOAD = (
    _Column("\nrun", lambda figures: _count(figures.running)),
    _Column("\nwait", lambda figures: _count(figures.waiting)),
    _Column("KV\nuse", lambda figures: _share(figures.kv_cache_usage)),
    _Column("cache\nhits", lambda figures: _share(figures.prefix_cache_hit_rate), narrow=False),
)
_TIMES = (
    _Column("TTFT\np50", lambda figures: _time(figures.time_to_first_token_p50), narrow=False),
    _Column("TTFT\np95", lambda figures: _time(figures.time_to_first_token_p95)),
    _Column("ITL\np50", lambda figures: _time(figures.inter_token_latency_p50), narrow=False),
    _Column("ITL\np95", lambda figures: _time(figures.inter_token_latency_p95)),
)
_ENDS = (
    _Column("pre-\nempt", lambda figures: _count(figures.preemptions), narrow=False),
    _Column("\ndone", lambda figures: _count(figures.done)),
    _Column("\nerror", lambda figures: _count(figures.errors)),
)


def view(rows: Sequence[Row], width: int = WIDTH) -> Group:
    """A table of the servers for a terminal of that width. Below it: the reasons for missing figures."""
    interval = max((row.figures.seconds or 0.0 for row in rows if row.figures), default=0.0)
    columns = [*_LOAD, *(_RATES if interval else _TOTALS), *_TIMES, *_ENDS]
    if width < WIDTH:
        columns = [column for column in columns if column.narrow]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("\nserver", overflow="fold")
    table.add_column("\nstate", no_wrap=True)
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row in rows:
        cells = [column.cell(row.figures) if row.figures else _DASH for column in columns]
        table.add_row(escape(row.name), f"[{_COLORS.get(row.state, 'red')}]{row.state}[/]", *cells)
    reasons = [Text(f"{row.name}: {row.reason}") for row in rows if row.reason]
    return Group(table, Text(_legend(interval), style="dim"), *reasons)


def _legend(interval: float) -> str:
    if not interval:
        return "All figures: since each server's start."
    return f"Hits, tokens per second and times: the last {interval:.1f} s. Counts: since each server's start."


def _count(value: float | None) -> str:
    """At most five characters: 7, 950, 12.3k, 456k, 7.8M."""
    if value is None:
        return _DASH
    for unit in ("", "k", "M", "G"):
        if round(value) < 1000 or unit == "G":
            break
        value /= 1000
    return f"{value:.1f}{unit}" if unit and round(value, 1) < 100 else f"{value:.0f}{unit}"


def _share(value: float | None) -> str:
    return _DASH if value is None else f"{value:.0%}"


def _time(seconds: float | None) -> str:
    """At most five characters: 8ms, 950ms, 1.25s, 12.5s, 160s."""
    if seconds is None:
        return _DASH
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.0095 else f"{seconds * 1000:.1f}ms"
    return f"{seconds:.2f}s" if seconds < 9.995 else f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:.0f}s"
