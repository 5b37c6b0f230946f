"""Call statistics in memory: counts, errors, tokens and durations for each model and operation.

    Stats         the observer that counts the calls of one client
    Row           the counts of one operation of one model
    Timing        the distribution of one duration
    ModelLabels   bounds the number of models that are counted separately

Memory use depends neither on the number of calls nor on the number of model names that callers invent.
A `CallRecord` holds ticks (nanoseconds). All durations in this file are seconds.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, TypedDict

from ..steps import Clock, SystemClock
from .call_record import ANSWERED, CANCELLED, CallRecord

PERCENTILE_WINDOW = 1000
"""Percentiles cover this number of the latest calls of a row."""
MAX_MODELS = 100
"""Maximum number of models with rows of their own, besides the configured models."""
MAX_UNANSWERED_MODELS = 20
"""Maximum number of those models that have not answered a call yet: callers may invent names."""
MAX_NAME_LENGTH = 400
"""A model with a longer name (in characters) is always counted as `OTHER_MODELS`."""
OTHER_MODELS = "(other)"
"""The label that all further models share."""

# The bucket boundaries that OpenTelemetry's GenAI conventions (1.41) recommend for client histograms.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Upper bounds of the buckets of a duration (seconds)."""
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""Upper bounds of the buckets of a number of tokens."""

SUMMED_FIELDS = ("retries", "failovers", "tokens_in", "tokens_out")
"""The fields of `CallRecord` that a row adds up in `Row.counters`."""


class Percentiles(TypedDict):
    """Statistics of a duration (seconds). All are None if nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None


Tokens = TypedDict("Tokens", {"in": int, "out": int})


class Counts(TypedDict):
    """The counts of calls. `calls` counts all calls that have ended, including failed and cancelled calls."""

    calls: int
    errors: dict[str, int]
    cancelled: int
    retries: int
    failovers: int
    tokens: Tokens
    in_flight: int
    waiting: int


class OperationSnapshot(Counts):
    """The counts and durations of one operation of one model."""

    answered_by: dict[str, int]
    latency_s: Percentiles
    time_to_first_token_s: Percentiles


class Snapshot(TypedDict):
    """The result of `Stats.snapshot`. It can be serialized as JSON."""

    since: str
    """The time at which counting began (RFC 3339)."""
    models: dict[str, dict[str, OperationSnapshot]]
    """By requested model, then by operation."""
    totals: Counts


@dataclass(slots=True)
class Timing:
    """The distribution of a duration: a histogram of all values, and the latest values themselves."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))
    """Number of values in each bucket of `DURATION_BUCKETS`. The last item counts the values above all bounds."""
    total: float = 0.0
    longest: float = 0.0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=PERCENTILE_WINDOW))

    def add(self, seconds: float) -> None:
        """Add one value."""
        self.buckets[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.latest.append(seconds)

    def merge(self, other: Timing) -> None:
        """Add all values of `other`."""
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self.latest.extend(other.latest)

    def percentiles(self) -> Percentiles:
        """Nearest-rank percentiles of the latest values, and the maximum and the mean of all values."""
        ordered = sorted(self.latest)
        if not ordered:
            return Percentiles(p50=None, p95=None, p99=None, max=None, mean=None)
        p50, p95, p99 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95, 99))
        return Percentiles(p50=p50, p95=p95, p99=p99, max=self.longest, mean=self.total / sum(self.buckets))


@dataclass(slots=True)
class Row:
    """The counts and durations of one operation of one model."""

    model: str
    operation: str
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of calls that have ended, by `CallRecord.outcome`."""
    answered_by: Counter[str] = field(default_factory=Counter)
    """Number of answered calls, by server."""
    counters: Counter[str] = field(default_factory=Counter)
    """The sums of `SUMMED_FIELDS`. In copies of a row also `in_flight` and `waiting`: calls that have not ended."""
    latency: Timing = field(default_factory=Timing)
    """Of answered calls only: a call that is refused at once says nothing about the duration of an answer."""
    first_token: Timing = field(default_factory=Timing)
    """Of all calls with a first token."""

    def count(self, record: CallRecord) -> None:
        """Add a call that has ended."""
        self.outcomes[record.error or ANSWERED] += 1
        if record.error is None and record.ended is not None:
            self.latency.add((record.ended - record.started) / 1e9)
            if record.answered_by is not None:
                self.answered_by[record.answered_by] += 1
        for name in SUMMED_FIELDS:
            if value := getattr(record, name):
                self.counters[name] += value
        if record.first_token is not None:
            self.first_token.add((record.first_token - record.started) / 1e9)

    def merge(self, other: Row) -> None:
        """Add everything that `other` counts."""
        # Copies: the garbage collector may end a call, and so change `other`, while an iteration runs.
        self.outcomes.update(other.outcomes.copy())
        self.answered_by.update(other.answered_by.copy())
        self.counters.update(other.counters.copy())
        self.latency.merge(other.latency)
        self.first_token.merge(other.first_token)

    def counts(self) -> Counts:
        """Return the counts as plain JSON."""
        counters = self.counters
        return Counts(
            calls=self.outcomes.total(),
            errors={kind: n for kind, n in sorted(self.outcomes.items()) if kind not in (ANSWERED, CANCELLED)},
            cancelled=self.outcomes[CANCELLED],
            retries=counters["retries"],
            failovers=counters["failovers"],
            tokens={"in": counters["tokens_in"], "out": counters["tokens_out"]},
            in_flight=counters["in_flight"],
            waiting=counters["waiting"],
        )

    def snapshot(self) -> OperationSnapshot:
        """Return the counts and the durations as plain JSON."""
        return OperationSnapshot(
            **self.counts(),
            answered_by=dict(sorted(self.answered_by.items())),
            latency_s=self.latency.percentiles(),
            time_to_first_token_s=self.first_token.percentiles(),
        )


def encodable(name: str) -> str:
    """Replace each lone surrogate by a question mark. UTF-8 cannot encode one, and it would make a scrape fail."""
    return name.encode(errors="replace").decode()


class ModelLabels:
    """Selects the label under which the calls of a model are counted, so that the number of labels is bounded.

    Configured models and the first `MAX_MODELS` other models keep their names; further models share `OTHER_MODELS`.
    At most `MAX_UNANSWERED_MODELS` of the other models are models that have not answered a call yet, so that names
    that callers invent do not displace names of real models.
    """

    def __init__(self, configured: Iterable[str] = ()) -> None:
        """`configured` are the model names of the settings."""
        self._configured = frozenset(name for name in configured if encodable(name) == name)
        self._labels: set[str] = set()
        self._unanswered: set[str] = set()

    def label(self, model: str, *, answered: bool) -> str:
        """Return `model` itself or `OTHER_MODELS`. `answered`: whether the model has answered the call."""
        if model in self._configured:
            return model
        if model in self._labels:
            if answered:
                self._unanswered.discard(model)
            return model
        full = len(self._labels) >= MAX_MODELS or (not answered and len(self._unanswered) >= MAX_UNANSWERED_MODELS)
        if full or len(model) > MAX_NAME_LENGTH or encodable(model) != model:
            return OTHER_MODELS
        self._labels.add(model)
        if not answered:
            self._unanswered.add(model)
        return model


class Stats:
    """The observer that counts the calls of a client, each call once when it ends. All methods are thread-safe."""

    def __init__(self, clock: Clock | None = None, configured: Iterable[str] = ()) -> None:
        """Count nothing yet.

        `clock` gives the time at which counting begins; default: the system clock. `configured` are the model names of
        the settings: these models always have rows of their own.
        """
        self._configured = tuple(configured)
        self._clock = clock or SystemClock()
        # Reentrant: the garbage collector may close an abandoned stream, and so end its call, while this thread counts.
        self._lock = threading.RLock()
        self._running: dict[CallRecord, Row] = {}
        self._clear()

    def _clear(self) -> None:
        self._since = self._clock.stamp()
        self._labels = ModelLabels(self._configured)
        self._rows: dict[tuple[str, str], Row] = {}

    def started(self, record: CallRecord) -> None:
        """Count a call as in flight or waiting until it ends."""
        with self._lock:
            self._running[record] = self._row(record, answered=False)

    def ended(self, record: CallRecord) -> None:
        """Count a call that ends. Ignores a call that is not running: it has ended, or belongs to another process."""
        with self._lock:
            if self._running.pop(record, None) is not None:
                answered = record.error is None or record.first_token is not None
                self._row(record, answered=answered).count(record)

    def _row(self, record: CallRecord, *, answered: bool) -> Row:
        key = self._labels.label(record.model, answered=answered), record.operation
        row = self._rows.get(key)
        return self._rows.setdefault(key, Row(*key)) if row is None else row

    def rows(self) -> list[Row]:
        """Return copies of all rows, oldest row first."""
        return self._copy()[1]

    def snapshot(self) -> Snapshot:
        """Return everything that is counted, as plain JSON that the caller may change."""
        since, rows = self._copy()
        totals = Row("", "")
        models: dict[str, dict[str, OperationSnapshot]] = {}
        for row in rows:
            models.setdefault(row.model, {})[row.operation] = row.snapshot()
            totals.merge(row)
        return Snapshot(since=since, models=models, totals=totals.counts())

    def _copy(self) -> tuple[str, list[Row]]:
        with self._lock:
            rows = merge_rows(self._rows.copy().values())
            running = [(row.model, row.operation, call.waiting) for call, row in self._running.copy().items()]
            since = self._since
        by_key = {(row.model, row.operation): row for row in rows}
        for model, operation, waiting in running:
            by_key[model, operation].counters["waiting" if waiting else "in_flight"] += 1
        return since, rows

    def reset(self) -> None:
        """Set all counts to zero. Calls that run stay in flight and are counted when they end."""
        with self._lock:
            self._clear()
            for record in self._running.copy():
                if record in self._running:
                    self._running[record] = self._row(record, answered=False)

    def after_fork(self) -> Self:
        """Start from zero in a child process: the parent counts its own calls, and its lock may be held forever."""
        self._lock = threading.RLock()
        self._running = {}
        self._clear()
        return self


def merge_rows(rows: Iterable[Row]) -> list[Row]:
    """Return copies of `rows`, in which rows of the same model and operation are added up."""
    merged: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.model, row.operation
        merged.setdefault(key, Row(*key)).merge(row)
    return list(merged.values())
