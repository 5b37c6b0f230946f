"""The metrics that a scrape of Prometheus reads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from ollama_compat.prometheus import Collector, register
from ollama_compat.telemetry.call_record import CANCELLED, CallRecord
from ollama_compat.telemetry.stats import DURATION_BUCKETS, Stats
from tests.play import SECOND

CHAT = {"model": "exaone", "operation": "chat"}


def call(
    stats: Stats, seconds: float = 1.0, first_token: int | None = None, error: str | None = None, **fields: Any
) -> None:
    record = CallRecord("chat", "exaone", 0, first_token=first_token, **fields)
    stats.started(record)
    record.ended, record.error = round(seconds * SECOND), error
    stats.ended(record)


def registry(*sources: Stats) -> CollectorRegistry:
    result = CollectorRegistry(auto_describe=True)
    register(*sources, registry=result)
    return result


def scrape(*sources: Stats) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The labels and values of all samples, by name."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry(*sources)).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def test_calls_counter_has_outcome_label() -> None:
    stats = Stats()
    for error in (None, None, "timeout", CANCELLED):
        call(stats, error=error)
    assert scrape(stats)["ollama_compat_calls_total"] == [
        ({**CHAT, "outcome": "answered"}, 2),
        ({**CHAT, "outcome": "cancelled"}, 1),
        ({**CHAT, "outcome": "timeout"}, 1),
    ]


def test_tokens_counter_has_direction_label() -> None:
    stats = Stats()
    call(stats, tokens_in=10, tokens_out=20)
    assert scrape(stats)["ollama_compat_tokens_total"] == [
        ({**CHAT, "direction": "in"}, 10),
        ({**CHAT, "direction": "out"}, 20),
    ]


def test_retries_failovers_and_running_calls_are_exported() -> None:
    stats = Stats()
    call(stats, retries=2, failovers=3)
    stats.started(CallRecord("chat", "exaone", 0, waiting=True))
    stats.started(CallRecord("chat", "exaone", 0))
    stats.started(CallRecord("chat", "exaone", 0))
    samples = scrape(stats)
    assert samples["ollama_compat_retries_total"] == [(CHAT, 2)]
    assert samples["ollama_compat_failovers_total"] == [(CHAT, 3)]
    assert samples["ollama_compat_in_flight"] == [(CHAT, 2)]
    assert samples["ollama_compat_waiting"] == [(CHAT, 1)]


@pytest.mark.parametrize("name", ["call_duration", "time_to_first_token"])
def test_durations_are_exported_as_histograms(name: str) -> None:
    stats = Stats()
    for seconds in (0.005, 0.3, 100.0):
        call(stats, *((seconds, 0) if name == "call_duration" else (500.0, round(seconds * SECOND))))
    samples = scrape(stats)
    buckets = {labels["le"]: value for labels, value in samples[f"ollama_compat_{name}_seconds_bucket"]}
    assert [float(end) for end in buckets] == [*DURATION_BUCKETS, float("inf")]
    assert (buckets["0.01"], buckets["0.16"], buckets["0.32"], buckets["81.92"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert samples[f"ollama_compat_{name}_seconds_count"] == [(CHAT, 3)]
    assert samples[f"ollama_compat_{name}_seconds_sum"] == [(CHAT, pytest.approx(100.305))]


def test_counts_of_several_clients_are_added() -> None:
    one, other = Stats(), Stats()
    call(one)
    call(other)
    assert scrape(one, other)["ollama_compat_calls_total"][0] == ({**CHAT, "outcome": "answered"}, 2)


def test_label_may_contain_any_characters() -> None:
    stats = Stats()
    stats.started(CallRecord("chat", 'it\'s "한국"\\\n', 0))
    assert scrape(stats)["ollama_compat_in_flight"] == [({"model": 'it\'s "한국"\\\n', "operation": "chat"}, 1)]


def test_scrape_succeeds_when_model_name_cannot_be_encoded() -> None:
    stats = Stats()
    stats.started(CallRecord("chat", "half \ud800", 0))
    assert scrape(stats)["ollama_compat_in_flight"] == [({"model": "(other)", "operation": "chat"}, 1)]


def test_each_scrape_reads_current_counts() -> None:
    stats = Stats()
    collected = registry(stats)
    outcome = {**CHAT, "outcome": "answered"}
    assert collected.get_sample_value("ollama_compat_calls_total", outcome) is None
    call(stats)
    assert collected.get_sample_value("ollama_compat_calls_total", outcome) == 1
    call(stats)
    assert collected.get_sample_value("ollama_compat_calls_total", outcome) == 2


def test_metrics_can_be_exported_as_openmetrics() -> None:
    stats = Stats()
    call(stats, first_token=SECOND)
    assert generate_openmetrics(registry(stats)).endswith(b"# EOF\n")


def test_registry_accepts_second_collector_only_after_first_is_unregistered() -> None:
    target = CollectorRegistry(auto_describe=True)
    first = register(Stats(), registry=target)
    with pytest.raises(ValueError, match="ollama_compat_calls"):
        register(Stats(), registry=target)
    target.unregister(first)
    assert isinstance(register(Stats(), registry=target), Collector)


def test_import_error_names_the_package_to_install() -> None:
    script = "import sys; sys.modules['prometheus_client'] = None; import ollama_compat, ollama_compat.prometheus"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ImportError: ollama_compat.prometheus needs prometheus_client: pip install 'ollama-compat[prometheus]'" in (
        done.stderr
    )


def test_package_does_not_import_prometheus_client() -> None:
    script = "import sys, ollama_compat, ollama_compat.telemetry.stats; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
