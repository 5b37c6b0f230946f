"""What happened: calls, errors, tokens and times, for each model and operation.

    Running    what is noted of a call; there is no place in it for a prompt, an answer or a key
    Observer   who is told of its start and its end: `Stats`, and the observer of otel.py
    Stats      counts calls, in memory that does not grow with their number, nor with the names that callers make up

Times are ticks of a `Clock` (nanoseconds) in a call, seconds in what is told of it.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, Self, TypedDict

from ..steps import Clock, SystemClock

CANCELLED = "cancelled"
"""The `error` of a call whose caller went away, or stopped reading its stream: no error."""
LAST = 1000
"""Percentiles are those of the last so many calls of a row."""
MODELS = 100
"""How many model names have rows of their own, beside those of the settings; others are counted as `OTHER_MODELS`."""
UNANSWERED = 20
"""How many of these may be names of which no call was answered yet: callers make names up."""
LONGEST_NAME = 400
"""A model name with more characters is counted as `OTHER_MODELS` at once."""
OTHER_MODELS = "(other)"

# The boundaries that OpenTelemetry's GenAI conventions (1.41) recommend for client histograms.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Upper ends of the buckets of a duration (seconds)."""
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""Upper ends of the buckets of a number of tokens."""


@dataclass(slots=True, eq=False)
class CallRecord:
    """A call. Who runs it sets the fields as things happen, and tells its observers of the start and the end only."""

    operation: str
    """Ollama's word for it: chat, generate, embed, ..."""
    model: str
    """As the caller named it."""
    started: int
    streamed: bool = False
    waiting: bool = False
    """Whether it waits for its turn under the rates and the limit of calls at once."""
    first_token: int | None = None
    answered_by: str | None = None
    """Who took it: a server's URL, or the name of what has none."""
    provider: str = "vllm"
    """Whose server that is: vllm, ollama or a provider's name."""
    served: str | None = None
    """The model's name there."""
    retries: int = 0
    """How often the same servers were asked again."""
    failovers: int = 0
    """How often another server, model or provider was asked."""
    tokens_in: int = 0
    tokens_out: int = 0
    ended: int | None = None
    error: str | None = None
    """What it ended with: a kind of failure (guard/failures.py), or `CANCELLED`; None: it was answered."""

    @property
    def was_answered(self) -> bool:
        """Whether it was, or at least began to be."""
        return self.error is None or self.first_token is not None

    @property
    def seconds(self) -> float:
        """From its start to its end, waiting and all; 0 before its end."""
        return 0.0 if self.ended is None else (self.ended - self.started) / 1e9

    @property
    def seconds_to_first_token(self) -> float | None:
        """From its start to the first token; None where none was noted."""
        return None if self.first_token is None else (self.first_token - self.started) / 1e9


class Observer(Protocol):
    """Who is told of each call, in the thread that runs it. It must be quick and must not raise."""

    def started(self, running: CallRecord) -> None:
        """A call begins."""
        ...

    def ended(self, running: CallRecord) -> None:
        """The call has ended; `ended` and `error` are set."""
        ...

    def after_fork(self) -> Observer:
        """The observer to go on with in the child of a fork."""
        ...


class Percentiles(TypedDict):
    """Seconds; None where there is nothing to tell of yet."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None


Tokens = TypedDict("Tokens", {"in": int, "out": int})


class Counts(TypedDict):
    """How many calls have ended, and how; `calls` has those with errors and the cancelled in it."""

    calls: int
    errors: dict[str, int]
    cancelled: int
    retries: int
    failovers: int
    tokens: Tokens
    in_flight: int
    waiting: int


class OperationSnapshot(Counts):
    """One operation of one model."""

    answered_by: dict[str, int]
    latency_s: Percentiles
    time_to_first_token_s: Percentiles


class Snapshot(TypedDict):
    """What `Stats.snapshot` tells: plain JSON."""

    since: str
    """RFC 3339: when counting began."""
    models: dict[str, dict[str, OperationSnapshot]]
    """By model as it was asked for, then by operation."""
    totals: Counts


@dataclass(slots=True)
class Timing:
    """Durations: all of them in buckets, the last ones each."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    """How many fell into each bucket of `SECONDS`; the last one has what is longer than all."""
    total: float = 0.0
    longest: float = 0.0
    last: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))

    def add(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.last.append(seconds)

    def merge(self, other: Timing) -> None:
        """Count all of `other` too."""
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self.last.extend(other.last)

    def percentiles(self) -> Percentiles:
        """Percentiles of the last ones, by nearest rank; the longest and the mean of all."""
        ordered = sorted(self.last)
        if not ordered:
            return Percentiles(p50=None, p95=None, p99=None, max=None, mean=None)
        p50, p95, p99 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95, 99))
        return Percentiles(p50=p50, p95=p95, p99=p99, max=self.longest, mean=self.total / sum(self.buckets))


@dataclass(slots=True)
class Row:
    """One operation of one model."""

    model: str
    operation: str
    answered: int = 0
    cancelled: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    failovers: int = 0
    answered_by: dict[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    in_flight: int = 0
    """Begun, not ended, and not waiting."""
    waiting: int = 0
    latency: Timing = field(default_factory=Timing)
    """Of calls that were answered: one that is refused at once says nothing of how long an answer takes."""
    first_token: Timing = field(default_factory=Timing)
    """Of all calls of which a first token was noted."""

    def count(self, call: CallRecord) -> None:
        """Count a call that has ended."""
        if call.error is None:
            self.answered += 1
            self.latency.add(call.seconds)
            if call.answered_by is not None:
                self.answered_by[call.answered_by] = self.answered_by.get(call.answered_by, 0) + 1
        elif call.error == CANCELLED:
            self.cancelled += 1
        else:
            self.errors[call.error] = self.errors.get(call.error, 0) + 1
        self.retries += call.retries
        self.failovers += call.failovers
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        first_token = call.seconds_to_first_token
        if first_token is not None:
            self.first_token.add(first_token)

    def merge(self, other: Row) -> None:
        """Count all of `other` too."""
        for kind, number in other.errors.copy().items():
            self.errors[kind] = self.errors.get(kind, 0) + number
        for server, number in other.answered_by.copy().items():
            self.answered_by[server] = self.answered_by.get(server, 0) + number
        self.answered += other.answered
        self.cancelled += other.cancelled
        self.retries += other.retries
        self.failovers += other.failovers
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.in_flight += other.in_flight
        self.waiting += other.waiting
        self.latency.merge(other.latency)
        self.first_token.merge(other.first_token)

    def counts(self) -> Counts:
        """The numbers."""
        return Counts(
            calls=self.answered + self.cancelled + sum(self.errors.values()),
            errors=dict(sorted(self.errors.items())),
            cancelled=self.cancelled,
            retries=self.retries,
            failovers=self.failovers,
            tokens={"in": self.tokens_in, "out": self.tokens_out},
            in_flight=self.in_flight,
            waiting=self.waiting,
        )

    def snapshot(self) -> OperationSnapshot:
        """The numbers and the times."""
        return OperationSnapshot(
            **self.counts(),
            answered_by=dict(sorted(self.answered_by.items())),
            latency_s=self.latency.percentiles(),
            time_to_first_token_s=self.first_token.percentiles(),
        )


def encodable(name: str) -> str:
    """`name` with a question mark for each lone surrogate, which UTF-8 has no place for: one would spoil a scrape."""
    return name.encode(errors="replace").decode()


class ModelNames:
    """The model names that are told apart: those of the settings, and the first `MODELS` others.

    A name keeps its place. Of the others, no more than `UNANSWERED` are names of which no call was answered yet, so
    that names that callers make up leave room for those that mean something.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        """`own` are the names of the settings."""
        self._own = frozenset(name for name in own if encodable(name) == name)
        self._seen: set[str] = set()
        self._unanswered: set[str] = set()

    def bounded(self, model: str, *, answered: bool) -> str:
        """`model` itself, or `OTHER_MODELS`. `answered` says whether a call of it was."""
        if model in self._own:
            return model
        if model in self._seen:
            if answered:
                self._unanswered.discard(model)
            return model
        full = len(self._seen) >= MODELS or (not answered and len(self._unanswered) >= UNANSWERED)
        if full or len(model) > LONGEST_NAME or encodable(model) != model:
            return OTHER_MODELS
        self._seen.add(model)
        if not answered:
            self._unanswered.add(model)
        return model


class Stats:
    """Counts the calls of a client: each once, when it ends. Any thread may call any method at any time."""

    def __init__(self, clock: Clock | None = None, own: Iterable[str] = ()) -> None:
        """`clock` is the system's, unless a test brings its own; only its time of day is read.

        `own` are the models that have rows of their own in any case.
        """
        self._own = tuple(own)
        self._clock = clock or SystemClock()
        # Reentrant: the garbage collector may close a forgotten stream in the midst of a count, and so end its call.
        self._lock = threading.RLock()
        self._running: dict[CallRecord, Row] = {}
        self._begin()

    def _begin(self) -> None:
        self._since = self._clock.stamp()
        self._names = ModelNames(self._own)
        self._rows: dict[tuple[str, str], Row] = {}

    def started(self, running: CallRecord) -> None:
        """A call begins."""
        with self._lock:
            self._running[running] = self._row(running, answered=False)

    def ended(self, running: CallRecord) -> None:
        """A call has ended. One that is not running (it has ended before, or belongs to another process) is nothing."""
        with self._lock:
            if self._running.pop(running, None) is not None:
                self._row(running, answered=running.was_answered).count(running)

    def _row(self, running: CallRecord, *, answered: bool) -> Row:
        key = self._names.bounded(running.model, answered=answered), running.operation
        row = self._rows.get(key)
        return self._rows.setdefault(key, Row(*key)) if row is None else row

    def rows(self) -> list[Row]:
        """A copy of all rows, in the order in which they came to be."""
        return self._copy()[1]

    def snapshot(self) -> Snapshot:
        """All that is counted, as plain JSON; it is the caller's own."""
        since, rows = self._copy()
        totals = Row("", "")
        models: dict[str, dict[str, OperationSnapshot]] = {}
        for row in rows:
            models.setdefault(row.model, {})[row.operation] = row.snapshot()
            totals.merge(row)
        return Snapshot(since=since, models=models, totals=totals.counts())

    def _copy(self) -> tuple[str, list[Row]]:
        with self._lock:
            rows = merged(self._rows.copy().values())
            running = [(row.model, row.operation, call.waiting) for call, row in self._running.copy().items()]
            since = self._since
        by_key = {(row.model, row.operation): row for row in rows}
        for model, operation, waiting in running:
            row = by_key[model, operation]
            row.waiting += waiting
            row.in_flight += not waiting
        return since, rows

    def reset(self) -> None:
        """Begin to count anew. Calls that run go on, and count when they end."""
        with self._lock:
            self._begin()
            for running in self._running.copy():
                if running in self._running:
                    self._running[running] = self._row(running, answered=False)

    def after_fork(self) -> Self:
        """Begin anew in the child of a fork: its parent's calls are not its own, and the lock may be held for ever."""
        self._lock = threading.RLock()
        self._running = {}
        self._begin()
        return self


def merged(rows: Iterable[Row]) -> list[Row]:
    """Copies of `rows`, those of the same model and operation made one."""
    sums: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.model, row.operation
        sums.setdefault(key, Row(*key)).merge(row)
    return list(sums.values())
