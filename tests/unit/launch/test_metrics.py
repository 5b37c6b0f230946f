"""What a vLLM's `/metrics` says, and what two looks at it say together."""

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


def test_one_page_tells_of_all_since_the_start():
    told = figures(page())
    assert (told.running, told.waiting, told.kv_cache_usage, told.preemptions) == (2, 1, 0.25, 0)
    assert told.prefix_cache_hit_rate == pytest.approx(0.2)
    assert (told.prompt_tokens, told.generation_tokens) == (300, 90)
    assert (told.prompt_tokens_per_second, told.generation_tokens_per_second) == (None, None)
    assert told.time_to_first_token_p50 == pytest.approx(0.3)
    assert told.inter_token_latency_p50 == pytest.approx(0.01 * 43 / 80)
    assert told.finished == {"stop": 4, "length": 3, "abort": 1, "error": 0}
    assert told.answers == {"2xx": 7, "4xx": 3}
    assert (told.done, told.errors) == (7, 3)
    assert (told.started_at, told.seconds) == (1000.0, None)


def test_two_pages_tell_of_the_time_in_between():
    later = page(prompt=500, generated=190, queries=500, hits=210, ttft=(1, 5, 6), itl=(80, 186, 186), length=5)
    told = figures(later, page(), 2.0)
    assert (told.prompt_tokens_per_second, told.generation_tokens_per_second) == (100.0, 50.0)
    assert told.prefix_cache_hit_rate == pytest.approx(0.75)
    assert told.time_to_first_token_p50 == pytest.approx(0.3)  # both between 0.1 and 0.5
    assert told.inter_token_latency_p95 == pytest.approx(0.01 + 0.015 * 0.95)
    assert told.seconds == 2.0
    assert (told.prompt_tokens, told.finished["length"]) == (500, 5)  # what is counted stays whole


def test_nothing_in_between_is_no_figure_rather_than_nan():
    told = figures(page(), page(), 2.0)
    assert (told.prompt_tokens_per_second, told.generation_tokens_per_second) == (0.0, 0.0)
    assert told.prefix_cache_hit_rate is None
    assert told.time_to_first_token_p50 is told.inter_token_latency_p95 is None
    json.dumps(told.to_json(), allow_nan=False)


@pytest.mark.parametrize("changed", [{"start": 2000.0}, {"generated": 10}, {"ok": 0}, {"ttft": (0, 0, 0)}])
def test_a_server_that_was_started_anew_begins_anew(changed):
    told = figures(page(**changed), page(), 2.0)
    assert told == figures(page(**changed))


def test_no_time_between_two_pages_is_no_rate():
    assert figures(page(), page(), 0.0).seconds is None


def test_engines_and_served_models_are_one_server():
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
    told = figures(read(text))
    assert (told.running, told.kv_cache_usage, told.finished) == (5, 0.9, {"stop": 5})
    assert told.time_to_first_token_p50 == pytest.approx(2 / 3)


def test_what_a_page_does_not_have_is_no_figure():
    told = figures(read('vllm:num_requests_running{engine="0",model_name="kure"} 0\n'))
    assert told.time_to_first_token_p50 is told.time_to_first_token_p95 is None
    assert told.inter_token_latency_p50 is told.kv_cache_usage is told.prefix_cache_hit_rate is None
    assert (told.done, told.errors, told.started_at) == (0, 0, None)


def test_values_that_are_no_numbers_are_left_out():
    told = figures(page(kv="NaN", waiting="+Inf", hits="NaN"))
    assert (told.kv_cache_usage, told.prefix_cache_hit_rate) == (None, 0.0)
    assert told.waiting == 0
    json.dumps(told.to_json(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "<!DOCTYPE html><html></html>", '{"error": "x"}', "up 1\n", "a{b\n", "a{} \n"])
def test_what_is_no_page_of_a_vllm_is_refused(text):
    with pytest.raises(NotMetricsError):
        read(text)


def test_a_histogram_with_other_buckets_begins_anew():
    now, earlier = Histogram(((1.0, 4), (math.inf, 4))), Histogram(((2.0, 3), (math.inf, 3)))
    assert now.since(earlier) == now


def test_samples_are_summed_by_a_label_among_those_with_the_others():
    found = page()
    assert found.by("http_requests_total", "status", method="POST") == {"2xx": 7, "4xx": 2}
    assert found.by("http_requests_total", "nothing") == {}
    assert (found.sum("http_requests_total", status="4xx"), found.sum("nothing")) == (3, None)


def test_a_bound_that_is_no_number_is_refused():
    with pytest.raises(NotMetricsError, match="no Prometheus text"):
        page(ttft=('1\nvllm:time_to_first_token_seconds_bucket{le="x"} 1', 3, 4))


def test_a_server_without_statistics_is_told_so():
    with pytest.raises(NotMetricsError, match="--disable-log-stats"):
        read("process_start_time_seconds 1000.0\n")


@given(st.text())
def test_any_text_is_read_or_refused(text):
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
def test_a_quantile_is_interpolated_as_prometheus_does(buckets, q, value):
    assert Histogram(tuple(buckets)).quantile(q) == value


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_a_quantile_lies_within_the_bounds_and_grows_with_its_share(sizes, q):
    counts = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    bounds = [*(float(2**n) for n in range(len(sizes) - 1)), math.inf]
    histogram = Histogram(tuple(zip(bounds, counts, strict=True)))
    value, greater = histogram.quantile(q), histogram.quantile(min(1.0, q + 0.01))
    if counts[-1] == 0:
        assert value is None
    else:
        assert 0 <= value <= greater <= bounds[-2]
