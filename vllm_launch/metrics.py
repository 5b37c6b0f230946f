"""Parses a vLLM server's `/metrics`: Prometheus text -> `Page` -> `Figures`. It sends no requests.

The counters of a page start at the server's start. Rates and percentiles of an interval are the difference of two
pages: `figures(page, earlier, seconds)`. Engines (data parallel) and served models are summed: a server is one row.
The names are those of vLLM 0.32 (vllm/v1/metrics/loggers.py) and of prometheus-fastapi-instrumentator (`http_…`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
CACHE_QUERIES = "vllm:prefix_cache_queries_total"
CACHE_HITS = "vllm:prefix_cache_hits_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
GENERATION_TOKENS = "vllm:generation_tokens_total"
PREEMPTIONS = "vllm:num_preemptions_total"
FINISHED = "vllm:request_success_total"
TIME_TO_FIRST_TOKEN = "vllm:time_to_first_token_seconds"
INTER_TOKEN_LATENCY = "vllm:inter_token_latency_seconds"
ANSWERS = "http_requests_total"
STARTED_AT = "process_start_time_seconds"

_COUNTS = ("_total", "_count")
"""The suffixes of the names of counters."""

Samples: TypeAlias = Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]


class NotMetricsError(ValueError):
    """A text is not Prometheus text, or not the metrics of a vLLM server."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """The observations of a histogram, counted by bucket."""

    buckets: tuple[tuple[float, float], ...]
    """(upper bound, observations up to the bound), sorted by bound. The last bound is infinite."""

    def quantile(self, q: float) -> float | None:
        """The `q` quantile; None without observations.

        It is interpolated within its bucket, as Prometheus' `histogram_quantile` does: the first bucket begins at 0,
        and a value in the last bucket is reported as the lower bound of that bucket.
        """
        bounds, counts = [bound for bound, _ in self.buckets], [count for _, count in self.buckets]
        if len(counts) < 2 or counts[-1] <= 0:
            return None
        rank = q * counts[-1]
        at = next(index for index, count in enumerate(counts) if count >= rank)
        if at == len(counts) - 1:
            return bounds[-2]
        lower, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
        within = counts[at] - below
        return bounds[at] if within <= 0 else lower + (bounds[at] - lower) * (rank - below) / within

    def since(self, earlier: Histogram) -> Histogram:
        """The observations since `earlier`; all observations if its buckets differ."""
        if [bound for bound, _ in self.buckets] != [bound for bound, _ in earlier.buckets]:
            return self
        pairs = zip(self.buckets, earlier.buckets, strict=True)
        return Histogram(tuple((bound, count - before) for (bound, count), (_, before) in pairs))


@dataclass(frozen=True, slots=True)
class Page:
    """The samples of one `/metrics` response: name -> (labels, value) of each."""

    samples: Samples

    def sum(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None without samples."""
        values = [value for found, value in self.samples.get(name, ()) if labels.items() <= found.items()]
        return math.fsum(values) if values else None

    def most(self, name: str) -> float | None:
        """The largest sample; None without samples."""
        return max((value for _, value in self.samples.get(name, ())), default=None)

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sum for each value of `label`, over the samples with the other labels."""
        sums: dict[str, float] = {}
        for found, value in self.samples.get(name, ()):
            if label in found and labels.items() <= found.items():
                sums[found[label]] = sums.get(found[label], 0.0) + value
        return sums

    def histogram(self, name: str) -> Histogram:
        """The histogram of this name; empty if the page does not contain it."""
        sums: dict[float, float] = {}
        for bound, count in self.by(f"{name}_bucket", "le").items():
            sums[float(bound)] = sums.get(float(bound), 0.0) + count
        return Histogram(tuple(sorted(sums.items())))

    def continues(self, earlier: Page) -> bool:
        """Whether both pages come from the same run of the server: it has not restarted in between."""
        if self.sum(STARTED_AT) != earlier.sum(STARTED_AT):
            return False
        counted = [name for name in earlier.samples if name.endswith(_COUNTS)]
        return all((self.sum(name) or 0.0) >= (earlier.sum(name) or 0.0) for name in counted)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a server. None: the server has no such figure, such as a time between tokens for embeddings.

    Rates, times and the hit rate cover the last `seconds`. Without `seconds`, times and the hit rate cover the time
    since the server's start, and rates are None. Counts start at the server's start.
    """

    running: int
    """Requests in progress."""
    waiting: int
    """Requests in the server's queue."""
    kv_cache_usage: float | None
    """The used share of the KV cache, from 0 to 1; with several engines, that of the fullest."""
    prefix_cache_hit_rate: float | None
    """The share of prompt tokens found in the prefix cache, from 0 to 1."""
    prompt_tokens_per_second: float | None
    generation_tokens_per_second: float | None
    time_to_first_token_p50: float | None
    """Seconds, like the next three. For embeddings, vLLM counts the time to the vector here."""
    time_to_first_token_p95: float | None
    inter_token_latency_p50: float | None
    inter_token_latency_p95: float | None
    prompt_tokens: int
    generation_tokens: int
    preemptions: int
    finished: Mapping[str, int]
    """Finished requests by vLLM's reason: stop, length, abort, error, repetition. Requests that never started are only
    in `answers`. Requests of a client that disconnected are in neither (vLLM 0.32 does not count them)."""
    answers: Mapping[str, int]
    """HTTP responses by status class: 2xx, 4xx, 5xx."""
    started_at: float | None
    """Seconds since 1970."""
    seconds: float | None = None
    """The interval of rates, times and the hit rate; None: since the start."""

    @property
    def done(self) -> int:
        """Requests that completed."""
        return sum(count for reason, count in self.finished.items() if reason not in ("abort", "error"))

    @property
    def errors(self) -> int:
        """Error responses: of the client (4xx) and of the server (5xx)."""
        return self.answers.get("4xx", 0) + self.answers.get("5xx", 0)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def read(text: str) -> Page:
    """Parse a page. Samples without a finite value are skipped. Raises `NotMetricsError`."""
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                float(sample.labels.get("le", 0))
                if math.isfinite(sample.value):
                    samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except (ValueError, IndexError):  # an invalid sample, or a bound that is not a number
        raise NotMetricsError("the response is not Prometheus text") from None
    if RUNNING not in samples:
        raise NotMetricsError(f"{RUNNING} is missing: the server is not vLLM, or runs with --disable-log-stats")
    return Page({name: tuple(found) for name, found in samples.items()})


def figures(page: Page, earlier: Page | None = None, seconds: float = 0.0) -> Figures:
    """The figures of a page. Rates and times cover the interval since the `earlier` page, `seconds` (> 0) ago.

    If the server restarted in between, the `earlier` page is ignored.
    """
    if earlier is not None and not (seconds > 0 and page.continues(earlier)):
        earlier = None
    first_token, inter_token = (_times(page, earlier, name) for name in (TIME_TO_FIRST_TOKEN, INTER_TOKEN_LATENCY))
    queries, hits = _grown(page, earlier, CACHE_QUERIES), _grown(page, earlier, CACHE_HITS)
    return Figures(
        running=_whole(page.sum(RUNNING)),
        waiting=_whole(page.sum(WAITING)),
        kv_cache_usage=page.most(KV_CACHE_USAGE),
        prefix_cache_hit_rate=hits / queries if queries else None,
        prompt_tokens_per_second=_grown(page, earlier, PROMPT_TOKENS) / seconds if earlier else None,
        generation_tokens_per_second=_grown(page, earlier, GENERATION_TOKENS) / seconds if earlier else None,
        time_to_first_token_p50=first_token.quantile(0.5),
        time_to_first_token_p95=first_token.quantile(0.95),
        inter_token_latency_p50=inter_token.quantile(0.5),
        inter_token_latency_p95=inter_token.quantile(0.95),
        prompt_tokens=_whole(page.sum(PROMPT_TOKENS)),
        generation_tokens=_whole(page.sum(GENERATION_TOKENS)),
        preemptions=_whole(page.sum(PREEMPTIONS)),
        finished={reason: int(count) for reason, count in page.by(FINISHED, "finished_reason").items()},
        answers={status: int(count) for status, count in page.by(ANSWERS, "status").items()},
        started_at=page.sum(STARTED_AT),
        seconds=seconds if earlier else None,
    )


def _times(page: Page, earlier: Page | None, name: str) -> Histogram:
    now = page.histogram(name)
    return now.since(earlier.histogram(name)) if earlier else now


def _grown(page: Page, earlier: Page | None, name: str) -> float:
    return (page.sum(name) or 0.0) - ((earlier.sum(name) or 0.0) if earlier else 0.0)


def _whole(value: float | None) -> int:
    return int(value or 0)
