"""Call statistics: exact counts for each model and operation, thread safety, bounded memory."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ollama_compat import Profile, Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.telemetry.call_record import ANSWERED, CANCELLED, CallRecord
from ollama_compat.telemetry.stats import (
    DURATION_BUCKETS,
    MAX_MODELS,
    MAX_NAME_LENGTH,
    MAX_UNANSWERED_MODELS,
    OTHER_MODELS,
    PERCENTILE_WINDOW,
    TOKEN_BUCKETS,
    Stats,
    Timing,
    merge_rows,
)
from tests.play import SECOND, STAMP, FakeClock

A, B = "http://a:8001", "http://b:8002"


def stats() -> Stats:
    return Stats(FakeClock())


def begin(stats: Stats, model: str = "exaone", operation: str = "chat", **fields: Any) -> CallRecord:
    record = CallRecord(operation, model, started=5 * SECOND, **fields)
    stats.started(record)
    return record


def end(stats: Stats, record: CallRecord, seconds: float = 1.0, error: str | None = None) -> None:
    record.ended, record.error = record.started + round(seconds * SECOND), error
    stats.ended(record)


def call(stats: Stats, model: str = "exaone", operation: str = "chat", **fields: Any) -> None:
    ending = {key: fields.pop(key) for key in ("seconds", "error") if key in fields}
    end(stats, begin(stats, model, operation, **fields), **ending)


# Counts


def test_snapshot_contains_every_count_and_duration_of_a_call() -> None:
    counted = stats()
    call(
        counted,
        seconds=2.5,
        first_token=6 * SECOND,
        answered_by=A,
        retries=1,
        failovers=2,
        tokens_in=10,
        tokens_out=20,
    )
    times = {"p50": 2.5, "p95": 2.5, "p99": 2.5, "max": 2.5, "mean": 2.5}
    counts = {
        "calls": 1,
        "errors": {},
        "cancelled": 0,
        "retries": 1,
        "failovers": 2,
        "tokens": {"in": 10, "out": 20},
        "in_flight": 0,
        "waiting": 0,
    }
    row = {
        **counts,
        "answered_by": {A: 1},
        "latency_s": times,
        "time_to_first_token_s": dict.fromkeys(times, 1.0),
    }
    assert counted.snapshot() == {"since": STAMP, "models": {"exaone": {"chat": row}}, "totals": counts}


def test_models_and_operations_are_counted_separately_and_in_total() -> None:
    counted = stats()
    for model, operation in (("exaone", "chat"), ("exaone", "generate"), ("kure", "embed"), ("exaone", "chat")):
        call(counted, model, operation, tokens_in=3)
    snapshot = counted.snapshot()
    calls = {(model, name): row["calls"] for model, rows in snapshot["models"].items() for name, row in rows.items()}
    assert calls == {("exaone", "chat"): 2, ("exaone", "generate"): 1, ("kure", "embed"): 1}
    assert snapshot["totals"]["calls"] == 4
    assert snapshot["totals"]["tokens"] == {"in": 12, "out": 0}


def test_errors_are_counted_by_kind_and_cancelled_calls_separately() -> None:
    counted = stats()
    for error in (None, "timeout", "refused", "timeout", CANCELLED):
        call(counted, error=error)
    row = counted.snapshot()["models"]["exaone"]["chat"]
    assert (row["calls"], list(row["errors"].items()), row["cancelled"]) == (5, [("refused", 1), ("timeout", 2)], 1)


def test_latency_and_answered_by_include_answered_calls_only() -> None:
    counted = stats()
    call(counted, answered_by=A, seconds=2)
    call(counted, answered_by=A, seconds=2)
    call(counted, answered_by="deepseek", seconds=2)
    call(counted, answered_by=B, seconds=0.001, error="refused")
    call(counted, answered_by=B, seconds=600, error=CANCELLED)
    row = counted.snapshot()["models"]["exaone"]["chat"]
    assert row["answered_by"] == {A: 2, "deepseek": 1}
    assert row["latency_s"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0, "mean": 2.0}


def test_time_to_first_token_includes_cancelled_calls() -> None:
    counted = stats()
    call(counted, first_token=8 * SECOND, error=CANCELLED)
    assert counted.snapshot()["models"]["exaone"]["chat"]["time_to_first_token_s"]["max"] == 3.0


def test_call_is_in_flight_or_waiting_until_it_ends() -> None:
    counted = stats()
    queued = begin(counted, waiting=True)
    runs = begin(counted)

    def now() -> tuple[int, int, int]:
        totals = counted.snapshot()["totals"]
        return totals["calls"], totals["in_flight"], totals["waiting"]

    assert now() == (0, 1, 1)
    queued.waiting = False
    assert now() == (0, 2, 0)
    end(counted, runs)
    end(counted, queued, error="limited")
    assert now() == (2, 0, 0)


def test_end_of_call_that_is_not_running_is_ignored() -> None:
    counted = stats()
    end(counted, CallRecord("chat", "exaone", 0))
    record = begin(counted)
    end(counted, record)
    end(counted, record)
    assert counted.snapshot()["totals"]["calls"] == 1


def test_snapshot_is_json_and_a_copy() -> None:
    counted = stats()
    call(counted, answered_by=A, error=None)
    call(counted, error="timeout")
    snapshot = counted.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    row = snapshot["models"]["exaone"]["chat"]
    row["answered_by"].clear()
    row["errors"].clear()
    again = counted.snapshot()["models"]["exaone"]["chat"]
    assert (again["answered_by"], again["errors"]) == ({A: 1}, {"timeout": 1})


def test_call_record_has_no_field_for_prompt_answer_or_credential() -> None:
    texts = {each.name for each in dataclasses.fields(CallRecord) if "str" in str(each.type)}
    assert texts == {"operation", "model", "answered_by", "provider", "served", "error"}


# Durations


def test_percentiles_use_nearest_rank() -> None:
    timing = Timing()
    for number in reversed(range(1, 101)):
        timing.add(number / 10)
    percentiles = timing.percentiles()
    assert (percentiles["p50"], percentiles["p95"], percentiles["p99"], percentiles["max"]) == (5.0, 9.5, 9.9, 10.0)
    assert percentiles["mean"] == pytest.approx(5.05)


def test_percentiles_of_two_values_are_the_two_values() -> None:
    timing = Timing()
    timing.add(4.0)
    timing.add(2.0)
    assert timing.percentiles() == {"p50": 2.0, "p95": 4.0, "p99": 4.0, "max": 4.0, "mean": 3.0}


def test_percentiles_without_values_are_none() -> None:
    assert set(Timing().percentiles().values()) == {None}


def test_percentiles_cover_latest_values_but_maximum_and_mean_cover_all() -> None:
    timing = Timing()
    for seconds in (9.0, 1.0):
        for _ in range(PERCENTILE_WINDOW):
            timing.add(seconds)
    assert timing.percentiles() == {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 9.0, "mean": 5.0}


def test_bucket_bounds_are_inclusive_upper_bounds() -> None:
    timing = Timing()
    for seconds in (0.0, DURATION_BUCKETS[0], 0.011, DURATION_BUCKETS[-1], 100.0):
        timing.add(seconds)
    assert timing.buckets == [2, 1, *[0] * (len(DURATION_BUCKETS) - 3), 1, 1]


def test_buckets_are_those_of_the_conventions() -> None:
    assert [DURATION_BUCKETS[0] * 2**n for n in range(14)] == pytest.approx(DURATION_BUCKETS)
    assert [4**n for n in range(14)] == list(TOKEN_BUCKETS)


# Threads


class YieldingName(str):
    """A name that switches to another thread when it is hashed: between the read and the write of a count."""

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


@pytest.fixture
def frequent_thread_switches() -> Iterator[None]:
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(previous)


@pytest.mark.usefixtures("frequent_thread_switches")
def test_counts_are_exact_with_concurrent_threads() -> None:
    threads, calls = 16, 1000
    counted = stats()
    barrier = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        barrier.wait()
        for n in range(calls):
            error = (None, "timeout", CANCELLED, None)[n % 4]
            call(counted, f"model {number % 2}", answered_by=YieldingName(A), tokens_in=2, retries=1, error=error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    while any(worker.is_alive() for worker in workers):
        assert counted.snapshot()["totals"]["calls"] <= threads * calls
    snapshot = counted.snapshot()
    assert snapshot["totals"] == {
        "calls": 16_000,
        "errors": {"timeout": 4_000},
        "cancelled": 4_000,
        "retries": 16_000,
        "failovers": 0,
        "tokens": {"in": 32_000, "out": 0},
        "in_flight": 0,
        "waiting": 0,
    }
    assert [rows["chat"]["answered_by"] for rows in snapshot["models"].values()] == [{A: 4_000}] * 2


@pytest.mark.usefixtures("frequent_thread_switches")
@pytest.mark.parametrize("_round", range(20))  # a single round may miss the race
def test_number_of_models_is_bounded_with_concurrent_threads(_round: int) -> None:
    counted = stats()
    for number in range(MAX_MODELS - 1):
        call(counted, f"invented {number}")
    barrier = threading.Barrier(16)

    def work(name: str) -> None:
        barrier.wait()
        call(counted, name)

    workers = [threading.Thread(target=work, args=(YieldingName(number),)) for number in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counted.snapshot()["models"][OTHER_MODELS]["chat"]["calls"] == 15


def test_call_that_ends_while_its_thread_counts_another_is_counted() -> None:
    """The garbage collector may close an abandoned stream at any point of the program."""
    counted = stats()
    abandoned = begin(counted)

    class InterruptingName(str):
        def __hash__(self) -> int:
            end(counted, abandoned)
            return super().__hash__()

    worker = threading.Thread(target=lambda: call(counted, InterruptingName("kure")), daemon=True)
    worker.start()
    worker.join(10)
    assert not worker.is_alive(), "the count deadlocks"
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"]) == (2, 0)


# Reset and fork


def test_reset_keeps_calls_that_run() -> None:
    counted = stats()
    call(counted, "gone")
    active, waiting = begin(counted), begin(counted, waiting=True)
    call(counted, answered_by=A)
    counted.reset()
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"], totals["waiting"]) == (0, 1, 1)
    assert list(counted.snapshot()["models"]) == ["exaone"]
    end(counted, active)
    end(counted, waiting)
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"], totals["waiting"]) == (2, 0, 0)


def test_reset_updates_since() -> None:
    clock = FakeClock()
    counted = Stats(clock)
    clock.stamp = lambda: "2027-01-01T00:00:00Z"  # type: ignore[method-assign]
    assert counted.snapshot()["since"] == STAMP
    counted.reset()
    assert counted.snapshot()["since"] == "2027-01-01T00:00:00Z"


def test_forked_child_starts_from_zero_with_new_lock() -> None:
    counted = stats()
    call(counted)
    parent_record = begin(counted)
    # The lock is held by a thread of the parent that does not exist in the child.
    holder = threading.Thread(target=counted._lock.acquire)
    holder.start()
    holder.join()
    assert counted.after_fork() is counted
    assert counted.snapshot()["totals"]["in_flight"] == 0
    end(counted, parent_record)
    assert counted.snapshot()["models"] == {}
    call(counted)
    assert counted.snapshot()["totals"]["calls"] == 1


# Model names that callers invent


def test_models_above_the_maximum_share_a_row() -> None:
    counted = stats()
    for number in range(MAX_MODELS + 50):
        call(counted, f"invented {number}")
        call(counted, f"invented {number}", "generate")
    call(counted, "invented 0")
    models = counted.snapshot()["models"]
    assert len(models) == MAX_MODELS + 1
    assert {operation: row["calls"] for operation, row in models[OTHER_MODELS].items()} == {"chat": 50, "generate": 50}
    assert models["invented 0"]["chat"]["calls"] == 2
    assert counted.snapshot()["totals"]["calls"] == 2 * (MAX_MODELS + 50) + 1


def test_too_long_model_name_is_counted_as_other() -> None:
    counted = stats()
    call(counted, "a" * MAX_NAME_LENGTH)
    call(counted, "a" * (MAX_NAME_LENGTH + 1))
    assert list(counted.snapshot()["models"]) == ["a" * MAX_NAME_LENGTH, OTHER_MODELS]


def test_model_name_that_cannot_be_encoded_is_counted_as_other() -> None:
    counted = stats()
    call(counted, "한국어")
    call(counted, "half \ud800")
    assert list(counted.snapshot()["models"]) == ["한국어", OTHER_MODELS]


def test_reset_removes_labels_of_models() -> None:
    counted = stats()
    for number in range(MAX_MODELS):
        call(counted, f"invented {number}")
    late = begin(counted, "exaone")
    counted.reset()
    assert list(counted.snapshot()["models"]) == ["exaone"]
    end(counted, late)
    assert counted.snapshot()["totals"]["in_flight"] == 0


def count_invented_models(counted: Stats, number: int) -> None:
    for n in range(number):
        call(counted, f"invented {n}", error="not_found")


def test_unanswered_models_do_not_displace_answered_models() -> None:
    counted = stats()
    count_invented_models(counted, 3 * MAX_MODELS)
    for number in range(MAX_MODELS - MAX_UNANSWERED_MODELS):
        call(counted, f"real {number}")
    models = counted.snapshot()["models"]
    assert all(models[f"real {number}"]["chat"]["calls"] == 1 for number in range(MAX_MODELS - MAX_UNANSWERED_MODELS))
    assert len(models) == MAX_MODELS + 1
    assert models[OTHER_MODELS]["chat"]["errors"] == {"not_found": 3 * MAX_MODELS - MAX_UNANSWERED_MODELS}
    assert counted.snapshot()["totals"]["calls"] == 4 * MAX_MODELS - MAX_UNANSWERED_MODELS


def test_answered_model_no_longer_counts_as_unanswered() -> None:
    counted = stats()
    count_invented_models(counted, MAX_UNANSWERED_MODELS)
    call(counted, "invented 0")
    call(counted, "broken", error="unreachable")
    call(counted, "broken too", error="unreachable")
    models = counted.snapshot()["models"]
    assert models["broken"]["chat"]["errors"] == {"unreachable": 1}
    assert "broken too" not in models


@pytest.mark.parametrize(("first_token", "labelled"), [(6 * SECOND, True), (None, False)])
def test_call_with_first_token_counts_as_answered_when_cancelled(first_token: int | None, labelled: bool) -> None:
    counted = stats()
    count_invented_models(counted, MAX_UNANSWERED_MODELS)
    call(counted, "real", first_token=first_token, error=CANCELLED)
    assert ("real" in counted.snapshot()["models"]) is labelled


def test_call_is_counted_under_its_model_when_label_is_assigned_at_its_end() -> None:
    counted = stats()
    count_invented_models(counted, MAX_UNANSWERED_MODELS)
    record = begin(counted, "real")
    assert counted.snapshot()["models"][OTHER_MODELS]["chat"]["in_flight"] == 1
    end(counted, record)
    models = counted.snapshot()["models"]
    assert models["real"]["chat"]["calls"] == 1
    assert (models[OTHER_MODELS]["chat"]["calls"], models[OTHER_MODELS]["chat"]["in_flight"]) == (0, 0)


def test_configured_models_always_have_rows() -> None:
    counted = Stats(FakeClock(), ("configured", "half \ud800"))
    for number in range(2 * MAX_MODELS):
        call(counted, f"answered {number}")
    call(counted, "configured", error="unreachable")
    call(counted, "half \ud800", error="unreachable")
    models = counted.snapshot()["models"]
    assert models["configured"]["chat"]["errors"] == {"unreachable": 1}
    assert len(models) == MAX_MODELS + 2
    counted.reset()
    count_invented_models(counted, MAX_MODELS)
    call(counted, "configured", error="unreachable")
    assert "configured" in counted.snapshot()["models"]


def test_models_in_settings_are_configured_models() -> None:
    made = Dispatcher(
        Settings(
            backend_mode="vllm",
            vllm_failover={"a": "ollama:b"},
            vllm_model_map={"c": "d"},
            models={"e": Profile()},
        )
    )
    count_invented_models(made.stats, MAX_MODELS)
    for name in "acde":
        call(made.stats, name, error="unreachable")
    assert set("acde") < set(made.stats.snapshot()["models"])


@pytest.mark.usefixtures("frequent_thread_switches")
@pytest.mark.parametrize("_round", range(5))
def test_counts_are_exact_when_many_threads_invent_names(_round: int) -> None:
    threads, calls = 16, 200
    counted = stats()
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        barrier.wait()
        for n in range(calls):
            call(counted, f"invented {number} {n}", error="not_found")
            call(counted, f"real {n % 10}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    snapshot = counted.snapshot()
    assert (snapshot["totals"]["calls"], snapshot["totals"]["errors"]) == (6_400, {"not_found": 3_200})
    real = {name: rows["chat"] for name, rows in snapshot["models"].items() if name.startswith("real")}
    assert {name: (row["calls"], row["errors"]) for name, row in real.items()} == {
        f"real {n}": (320, {}) for n in range(10)
    }
    assert len(snapshot["models"]) == 10 + MAX_UNANSWERED_MODELS + 1


# Several clients


def test_merge_rows_adds_rows_of_several_clients() -> None:
    one, other = stats(), stats()
    call(one, answered_by=A, seconds=1)
    call(other, answered_by=A, seconds=3)
    call(other, error="timeout")
    begin(other, waiting=True)
    call(other, "kure", "embed")
    chat, embed = merge_rows([*one.rows(), *other.rows()])
    assert (chat.outcomes, chat.answered_by) == ({ANSWERED: 2, "timeout": 1}, {A: 2})
    assert chat.counters["waiting"] == 1
    assert chat.latency.percentiles()["mean"] == 2.0
    assert (embed.model, embed.operation, embed.outcomes) == ("kure", "embed", {ANSWERED: 1})
    assert one.rows()[0].outcomes == {ANSWERED: 1}
