"""The statistics of clients as Prometheus metrics.

    from ollama_compat import prometheus
    prometheus.register(client)

A scrape reads the counts of telemetry/stats.py; this module counts nothing. The multiprocess mode of prometheus_client
does not support custom collectors, so Prometheus has to scrape each process separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from operator import attrgetter
from typing import Protocol

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector as BaseCollector
    from prometheus_client.registry import CollectorRegistry
except ImportError as missing:
    raise ImportError(
        "ollama_compat.prometheus needs prometheus_client: pip install 'ollama-compat[prometheus]'"
    ) from missing

from .telemetry.call_record import ANSWERED, CANCELLED
from .telemetry.stats import DURATION_BUCKETS, Row, Timing, merge_rows

_LABELS = ("model", "operation")
_BOUNDS = (*(str(bound) for bound in DURATION_BUCKETS), "+Inf")


class Source(Protocol):
    """An object that has statistics: a client, or a `Stats`."""

    def rows(self) -> list[Row]:
        """Return the counts of each operation of each model."""
        ...


class Collector(BaseCollector):
    """Exports the summed statistics of several clients."""

    def __init__(self, *sources: Source) -> None:
        """Each scrape reads all `sources`."""
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        rows = merge_rows(row for source in self._sources for row in source.rows())
        yield _labelled_counter("calls", "Calls that have ended.", "outcome", _outcomes, rows)
        yield _labelled_counter("tokens", "Tokens in prompts and answers.", "direction", _tokens, rows)
        for family, name, description in (
            (CounterMetricFamily, "retries", "Repeated rounds over the servers of a model."),
            (CounterMetricFamily, "failovers", "Changes to another server, model or provider."),
            (GaugeMetricFamily, "in_flight", "Calls that run now, without those that wait for admission."),
            (GaugeMetricFamily, "waiting", "Calls that wait for admission by the rates and concurrency limits."),
        ):
            metric = family(f"ollama_compat_{name}", description, labels=_LABELS)
            for row in rows:
                metric.add_metric((row.model, row.operation), row.counters[name])
            yield metric
        for name, description, timing in (
            ("call_duration", "Duration of answered calls.", attrgetter("latency")),
            ("time_to_first_token", "Time from the start of a call to its first token.", attrgetter("first_token")),
        ):
            yield _histogram(name, description, timing, rows)


def _outcomes(row: Row) -> Mapping[str, int]:
    return {ANSWERED: 0, CANCELLED: 0, **row.outcomes}


def _tokens(row: Row) -> Mapping[str, int]:
    return {"in": row.counters["tokens_in"], "out": row.counters["tokens_out"]}


def _labelled_counter(
    name: str, description: str, label: str, counts: Callable[[Row], Mapping[str, int]], rows: list[Row]
) -> CounterMetricFamily:
    """A counter with one more label; `counts` gives the count for each value of that label."""
    metric = CounterMetricFamily(f"ollama_compat_{name}", description, labels=(*_LABELS, label))
    for row in rows:
        for value, count in counts(row).items():
            metric.add_metric((row.model, row.operation, value), count)
    return metric


def _histogram(name: str, description: str, timing: Callable[[Row], Timing], rows: list[Row]) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(f"ollama_compat_{name}_seconds", description, labels=_LABELS)
    for row in rows:
        times = timing(row)
        buckets = list(zip(_BOUNDS, accumulate(times.buckets), strict=True))
        metric.add_metric((row.model, row.operation), buckets, times.total)
    return metric


def register(*sources: Source, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Export the statistics of `sources` in `registry` (default: the global registry of prometheus_client).

    A registry accepts one collector only, so pass all clients in one call. `registry.unregister` removes the collector.

    Raises:
        ValueError: The registry has a collector of this module already.
    """
    collector = Collector(*sources)
    registry.register(collector)
    return collector
