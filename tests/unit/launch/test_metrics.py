"""The figures of one `/metrics` page, and of the difference of two pages."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_launch.metrics import Histogram, NotMetricsError, figures, read


def page(**changes):
    """A page as vLLM 0.32 writes it, shortened; `changes` are the values."""
    values = {
        "start": 1000.0, "running": 2, "waiting": 1, "kv": 0.25, "prompt": 300, "generated": 90, "queries": 300,
        "hits": 60, "preempted": 0, "stop": 4, "length": 3, "abort": 1, "error": 0, "ok": 7, "bad": 2,
        "ttft": (1, 3, 4), "itl": (80, 86, 86),
    } | changes  # fmt: skip
    return read(TEXT.format(L='engine="0",model_name="exaone"', **values))


TEXT = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds {start}
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{L}}} {running}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{L}}} {waiting}
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{L}}} {kv}
# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{{{L}}} {queries}
# HELP vllm:prefix_cache_queries_created Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_created gauge
vllm:prefix_cache_queries_created{{{L}}} 1.7640421e+09
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{{{L}}} {hits}
# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{{L}}} {preempted}
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{L}}} {prompt}
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{L}}} {generated}
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{L},finished_reason="stop"}} {stop}
vllm:request_success_total{{{L},finished_reason="length"}} {length}
vllm:request_success_total{{{L},finished_reason="abort"}} {abort}
vllm:request_success_total{{{L},finished_reason="error"}} {error}
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{{L},le="0.1"}} {ttft[0]}
vllm:time_to_first_token_seconds_bucket{{{L},le="0.5"}} {ttft[1]}
vllm:time_to_first_token_seconds_bucket{{{L},le="+Inf"}} {ttft[2]}
vllm:time_to_first_token_seconds_count{{{L}}} {ttft[2]}
vllm:time_to_first_token_seconds_sum{{{L}}} 1.5
# HELP vllm:inter_token_latency_seconds Histogram of inter-token latency in seconds.
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{{{L},le="0.01"}} {itl[0]}
vllm:inter_token_latency_seconds_bucket{{{L},le="0.025"}} {itl[1]}
vllm:inter_token_latency_seconds_bucket{{{L},le="+Inf"}} {itl[2]}
vllm:inter_token_latency_seconds_count{{{L}}} {itl[2]}
vllm:inter_token_latency_seconds_sum{{{L}}} 0.7
# HELP http_requests_total Total number of requests by method, status and handler.
# TYPE http_requests_total counter
http_requests_total{{handler="/v1/chat/completions",method="POST",status="2xx"}} {ok}
http_requests_total{{handler="/v1/chat/completions",method="POST",status="4xx"}} {bad}
http_requests_total{{handler="none",method="GET",status="4xx"}} 1
"""


def test_one_page_covers_the_time_since_the_start():
    result = figures(page())
    assert (result.running, result.waiting, result.kv_cache_usage, result.preemptions) == (2, 1, 0.25, 0)
    assert result.prefix_cache_hit_rate == pytest.approx(0.2)
    assert (result.prompt_tokens, result.generation_tokens) == (300, 90)
    assert (result.prompt_tokens_per_second, result.generation_tokens_per_second) == (None, None)
    assert result.time_to_first_token_p50 == pytest.approx(0.3)
    assert result.inter_token_latency_p50 == pytest.approx(0.01 * 43 / 80)
    assert result.finished == {"stop": 4, "length": 3, "abort": 1, "error": 0}
    assert result.answers == {"2xx": 7, "4xx": 3}
    assert (result.done, result.errors) == (7, 3)
    assert (result.started_at, result.seconds) == (1000.0, None)


def test_two_pages_cover_the_interval():
    later = page(prompt=500, generated=190, queries=500, hits=210, ttft=(1, 5, 6), itl=(80, 186, 186), length=5)
    result = figures(later, page(), 2.0)
    assert (result.prompt_tokens_per_second, result.generation_tokens_per_second) == (100.0, 50.0)
    assert result.prefix_cache_hit_rate == pytest.approx(0.75)
    assert result.time_to_first_token_p50 == pytest.approx(0.3)  # both between 0.1 and 0.5
    assert result.inter_token_latency_p95 == pytest.approx(0.01 + 0.015 * 0.95)
    assert result.seconds == 2.0
    assert (result.prompt_tokens, result.finished["length"]) == (500, 5)  # counts cover the time since the start


def test_interval_without_requests_yields_none_instead_of_nan():
    result = figures(page(), page(), 2.0)
    assert (result.prompt_tokens_per_second, result.generation_tokens_per_second) == (0.0, 0.0)
    assert result.prefix_cache_hit_rate is None
    assert result.time_to_first_token_p50 is result.inter_token_latency_p95 is None
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("changed", [{"start": 2000.0}, {"generated": 10}, {"ok": 0}, {"ttft": (0, 0, 0)}])
def test_restarted_server_ignores_the_earlier_page(changed):
    result = figures(page(**changed), page(), 2.0)
    assert result == figures(page(**changed))


def test_zero_seconds_yield_no_rate():
    assert figures(page(), page(), 0.0).seconds is None


def test_engines_and_served_models_are_summed():
    text = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 2
vllm:num_requests_running{engine="1",model_name="a"} 3
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.1
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.9
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a"} 1
vllm:request_success_total{engine="1",finished_reason="stop",model_name="a"} 4
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="a"} 2
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="a"} 2
vllm:time_to_first_token_seconds_bucket{engine="1",le="1.0",model_name="a"} 1
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="a"} 2
"""
    result = figures(read(text))
    assert (result.running, result.kv_cache_usage, result.finished) == (5, 0.9, {"stop": 5})
    assert result.time_to_first_token_p50 == pytest.approx(2 / 3)


def test_missing_metrics_are_none():
    result = figures(read('vllm:num_requests_running{engine="0",model_name="kure"} 0\n'))
    assert result.time_to_first_token_p50 is result.time_to_first_token_p95 is None
    assert result.inter_token_latency_p50 is result.kv_cache_usage is result.prefix_cache_hit_rate is None
    assert (result.done, result.errors, result.started_at) == (0, 0, None)


def test_non_finite_values_are_ignored():
    result = figures(page(kv="NaN", waiting="+Inf", hits="NaN"))
    assert (result.kv_cache_usage, result.prefix_cache_hit_rate) == (None, 0.0)
    assert result.waiting == 0
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "<!DOCTYPE html><html></html>", '{"error": "x"}', "up 1\n", "a{b\n", "a{} \n"])
def test_read_rejects_other_pages(text):
    with pytest.raises(NotMetricsError):
        read(text)


def test_histogram_with_other_buckets_ignores_the_earlier_one():
    now, earlier = Histogram(((1.0, 4), (math.inf, 4))), Histogram(((2.0, 3), (math.inf, 3)))
    assert now.since(earlier) == now


def test_by_sums_samples_per_label_value():
    found = page()
    assert found.by("http_requests_total", "status", method="POST") == {"2xx": 7, "4xx": 2}
    assert found.by("http_requests_total", "nothing") == {}
    assert (found.sum("http_requests_total", status="4xx"), found.sum("nothing")) == (3, None)


def test_read_rejects_a_bound_that_is_not_a_number():
    with pytest.raises(NotMetricsError, match="is not Prometheus text"):
        page(ttft=('1\nvllm:time_to_first_token_seconds_bucket{le="x"} 1', 3, 4))


def test_read_rejects_a_server_without_statistics():
    with pytest.raises(NotMetricsError, match="--disable-log-stats"):
        read("process_start_time_seconds 1000.0\n")


@given(st.text())
def test_any_text_is_parsed_or_rejected(text):
    with pytest.raises(NotMetricsError):
        read(text)


@pytest.mark.parametrize(
    ("buckets", "q", "value"),
    [
        # The worked cases of Prometheus' promql/quantile.go: within a bucket, the first bucket, the open one.
        ([(1, 10), (2, 20), (math.inf, 20)], 0.5, 1.0),
        ([(1, 10), (2, 20), (math.inf, 20)], 0.75, 1.5),
        ([(1, 10), (2, 20), (math.inf, 20)], 0.25, 0.5),
        ([(1, 0), (2, 0), (4, 8), (math.inf, 8)], 0.5, 3.0),
        ([(1, 10), (2, 10), (math.inf, 100)], 0.95, 2.0),
        ([(1, 0), (math.inf, 0)], 0.5, None),
        ([(math.inf, 5)], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_quantile_is_interpolated_like_prometheus(buckets, q, value):
    assert Histogram(tuple(buckets)).quantile(q) == value


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_quantile_is_within_the_bounds_and_monotonic(sizes, q):
    counts = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    bounds = [*(float(2**n) for n in range(len(sizes) - 1)), math.inf]
    histogram = Histogram(tuple(zip(bounds, counts, strict=True)))
    value, greater = histogram.quantile(q), histogram.quantile(min(1.0, q + 0.01))
    if counts[-1] == 0:
        assert value is None
    else:
        assert 0 <= value <= greater <= bounds[-2]
