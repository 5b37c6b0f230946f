"""The statistics of clients as Prometheus metrics.

    from ollama_compat import prometheus
    prometheus.register(client)

Nothing is counted here: a scrape reads what stats.py has counted. In prometheus_client's multiprocess mode, which knows
no custom collectors, each process has to be scraped by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
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

from .telemetry.stats import CANCELLED, SECONDS, Row, Timing, merged

ANSWERED = "answered"
"""The `outcome` of a call without an error; others are `CANCELLED` and the kinds of errors."""

_LABELS = ("model", "operation")
_ENDS = (*(str(end) for end in SECONDS), "+Inf")


class Source(Protocol):
    """What has statistics: a `Stats`."""

    def rows(self) -> list[Row]:
        """What was counted of each model and operation."""
        ...


class Collector(BaseCollector):
    """What several clients have counted, added up."""

    def __init__(self, *sources: Source) -> None:
        """`sources` are read at each scrape."""
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        rows = merged(row for source in self._sources for row in source.rows())
        yield _calls(rows)
        yield _tokens(rows)
        for name, meaning in (
            ("retries", "How often the servers of a model were asked again."),
            ("failovers", "How often another server, model or provider was asked."),
        ):
            counter = CounterMetricFamily(f"ollama_compat_{name}", meaning, labels=_LABELS)
            for row in rows:
                counter.add_metric((row.model, row.operation), getattr(row, name))
            yield counter
        for name, meaning in (
            ("in_flight", "Calls that run now, without those that wait for their turn."),
            ("waiting", "Calls that wait for their turn under the limits."),
        ):
            gauge = GaugeMetricFamily(f"ollama_compat_{name}", meaning, labels=_LABELS)
            for row in rows:
                gauge.add_metric((row.model, row.operation), getattr(row, name))
            yield gauge
        yield _histogram("call_duration", "How long calls took that were answered.", rows, "latency")
        yield _histogram("time_to_first_token", "From a call's start to its first token.", rows, "first_token")


def _calls(rows: list[Row]) -> CounterMetricFamily:
    counter = CounterMetricFamily("ollama_compat_calls", "Calls that have ended.", labels=(*_LABELS, "outcome"))
    for row in rows:
        for outcome, number in {ANSWERED: row.answered, CANCELLED: row.cancelled, **row.errors}.items():
            counter.add_metric((row.model, row.operation, outcome), number)
    return counter


def _tokens(rows: list[Row]) -> CounterMetricFamily:
    counter = CounterMetricFamily(
        "ollama_compat_tokens", "Tokens in prompts and answers.", labels=(*_LABELS, "direction")
    )
    for row in rows:
        counter.add_metric((row.model, row.operation, "in"), row.tokens_in)
        counter.add_metric((row.model, row.operation, "out"), row.tokens_out)
    return counter


def _histogram(name: str, meaning: str, rows: list[Row], timing: str) -> HistogramMetricFamily:
    histogram = HistogramMetricFamily(f"ollama_compat_{name}_seconds", meaning, labels=_LABELS)
    for row in rows:
        times: Timing = getattr(row, timing)
        buckets = list(zip(_ENDS, accumulate(times.buckets), strict=True))
        histogram.add_metric((row.model, row.operation), buckets, times.total)
    return histogram


def register(*sources: Source, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Have a registry, prometheus_client's own by default, tell the statistics of `sources`.

    A registry takes one collector: give it all clients at once. `registry.unregister` takes it out again.
    """
    collector = Collector(*sources)
    registry.register(collector)
    return collector
