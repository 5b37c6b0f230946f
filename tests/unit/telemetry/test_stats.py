"""What is counted of the calls: for each model and operation, exactly, under threads, in bounded memory."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
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


def begin(stats: Stats, model: str = "exaone", operation: str = "chat", **noted: Any) -> CallRecord:
    record = CallRecord(operation, model, started=5 * SECOND, **noted)
    stats.started(record)
    return record


def end(stats: Stats, record: CallRecord, seconds: float = 1.0, error: str | None = None) -> None:
    record.ended, record.error = record.started + round(seconds * SECOND), error
    stats.ended(record)


def call(stats: Stats, model: str = "exaone", operation: str = "chat", **how: Any) -> None:
    ending = {key: how.pop(key) for key in ("seconds", "error") if key in how}
    end(stats, begin(stats, model, operation, **how), **ending)


# What is told


def test_a_call_is_counted_with_all_that_was_noted_of_it() -> None:
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


def test_models_and_operations_are_told_apart_and_added_up() -> None:
    counted = stats()
    for model, operation in (("exaone", "chat"), ("exaone", "generate"), ("kure", "embed"), ("exaone", "chat")):
        call(counted, model, operation, tokens_in=3)
    told = counted.snapshot()
    calls = {(model, name): row["calls"] for model, rows in told["models"].items() for name, row in rows.items()}
    assert calls == {("exaone", "chat"): 2, ("exaone", "generate"): 1, ("kure", "embed"): 1}
    assert told["totals"]["calls"] == 4
    assert told["totals"]["tokens"] == {"in": 12, "out": 0}


def test_errors_are_counted_by_kind_and_a_cancelled_call_is_none() -> None:
    counted = stats()
    for error in (None, "timeout", "refused", "timeout", CANCELLED):
        call(counted, error=error)
    row = counted.snapshot()["models"]["exaone"]["chat"]
    assert (row["calls"], list(row["errors"].items()), row["cancelled"]) == (5, [("refused", 1), ("timeout", 2)], 1)


def test_only_answers_count_for_who_answered_and_how_long_it_took() -> None:
    counted = stats()
    call(counted, answered_by=A, seconds=2)
    call(counted, answered_by=A, seconds=2)
    call(counted, answered_by="deepseek", seconds=2)
    call(counted, answered_by=B, seconds=0.001, error="refused")
    call(counted, answered_by=B, seconds=600, error=CANCELLED)
    row = counted.snapshot()["models"]["exaone"]["chat"]
    assert row["answered_by"] == {A: 2, "deepseek": 1}
    assert row["latency_s"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0, "mean": 2.0}


def test_a_first_token_counts_though_the_caller_stopped_reading_after_it() -> None:
    counted = stats()
    call(counted, first_token=8 * SECOND, error=CANCELLED)
    assert counted.snapshot()["models"]["exaone"]["chat"]["time_to_first_token_s"]["max"] == 3.0


def test_a_call_is_in_flight_or_waits_for_its_turn_until_it_ends() -> None:
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


def test_a_call_that_never_began_or_has_ended_before_is_not_counted() -> None:
    counted = stats()
    end(counted, CallRecord("chat", "exaone", 0))
    record = begin(counted)
    end(counted, record)
    end(counted, record)
    assert counted.snapshot()["totals"]["calls"] == 1


def test_a_snapshot_is_json_and_the_callers_own() -> None:
    counted = stats()
    call(counted, answered_by=A, error=None)
    call(counted, error="timeout")
    told = counted.snapshot()
    assert json.loads(json.dumps(told)) == told
    row = told["models"]["exaone"]["chat"]
    row["answered_by"].clear()
    row["errors"].clear()
    again = counted.snapshot()["models"]["exaone"]["chat"]
    assert (again["answered_by"], again["errors"]) == ({A: 1}, {"timeout": 1})


def test_there_is_no_place_for_a_prompt_an_answer_or_a_key() -> None:
    texts = {each.name for each in fields(CallRecord) if "str" in str(each.type)}
    assert texts == {"operation", "model", "answered_by", "provider", "served", "error"}


# Times


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    timing = Timing()
    for number in reversed(range(1, 101)):
        timing.add(number / 10)
    told = timing.percentiles()
    assert (told["p50"], told["p95"], told["p99"], told["max"]) == (5.0, 9.5, 9.9, 10.0)
    assert told["mean"] == pytest.approx(5.05)


def test_percentiles_of_two_are_the_shorter_and_the_longer() -> None:
    timing = Timing()
    timing.add(4.0)
    timing.add(2.0)
    assert timing.percentiles() == {"p50": 2.0, "p95": 4.0, "p99": 4.0, "max": 4.0, "mean": 3.0}


def test_percentiles_of_nothing_are_none() -> None:
    assert set(Timing().percentiles().values()) == {None}


def test_percentiles_are_of_the_last_calls_the_longest_and_the_mean_of_all() -> None:
    timing = Timing()
    for seconds in (9.0, 1.0):
        for _ in range(PERCENTILE_WINDOW):
            timing.add(seconds)
    assert timing.percentiles() == {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 9.0, "mean": 5.0}


def test_a_duration_falls_into_the_bucket_that_ends_at_it_or_after_it() -> None:
    timing = Timing()
    for seconds in (0.0, DURATION_BUCKETS[0], 0.011, DURATION_BUCKETS[-1], 100.0):
        timing.add(seconds)
    assert timing.buckets == [2, 1, *[0] * (len(DURATION_BUCKETS) - 3), 1, 1]


def test_the_buckets_are_those_of_the_conventions() -> None:
    assert [DURATION_BUCKETS[0] * 2**n for n in range(14)] == pytest.approx(DURATION_BUCKETS)
    assert [4**n for n in range(14)] == list(TOKEN_BUCKETS)


# Threads


class Yielding(str):
    """A name at which another thread has its turn, between what a count reads and what it writes."""

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that are interrupted all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_counts_are_exact_under_threads() -> None:
    threads, calls = 16, 1000
    counted = stats()
    together = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        together.wait()
        for n in range(calls):
            error = (None, "timeout", CANCELLED, None)[n % 4]
            call(counted, f"model {number % 2}", answered_by=Yielding(A), tokens_in=2, retries=1, error=error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    together.wait()
    while any(worker.is_alive() for worker in workers):
        assert counted.snapshot()["totals"]["calls"] <= threads * calls
    told = counted.snapshot()
    assert told["totals"] == {
        "calls": 16_000,
        "errors": {"timeout": 4_000},
        "cancelled": 4_000,
        "retries": 16_000,
        "failovers": 0,
        "tokens": {"in": 32_000, "out": 0},
        "in_flight": 0,
        "waiting": 0,
    }
    assert [rows["chat"]["answered_by"] for rows in told["models"].values()] == [{A: 4_000}] * 2


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("_round", range(20))  # in one alone, chance may order the threads
def test_the_number_of_models_is_bounded_under_threads(_round: int) -> None:
    counted = stats()
    for number in range(MAX_MODELS - 1):
        call(counted, f"made up {number}")
    together = threading.Barrier(16)

    def work(name: str) -> None:
        together.wait()
        call(counted, name)

    workers = [threading.Thread(target=work, args=(Yielding(number),)) for number in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counted.snapshot()["models"][OTHER_MODELS]["chat"]["calls"] == 15


def test_a_call_that_ends_in_the_midst_of_a_count_is_counted() -> None:
    """The garbage collector closes a forgotten stream wherever it happens to run."""
    counted = stats()
    forgotten = begin(counted)

    class Interrupting(str):
        def __hash__(self) -> int:
            end(counted, forgotten)
            return super().__hash__()

    worker = threading.Thread(target=lambda: call(counted, Interrupting("kure")), daemon=True)
    worker.start()
    worker.join(10)
    assert not worker.is_alive(), "the count waits for itself"
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"]) == (2, 0)


# Beginning anew


def test_reset_forgets_what_was_counted_but_not_what_runs() -> None:
    counted = stats()
    call(counted, "gone")
    runs, waits = begin(counted), begin(counted, waiting=True)
    call(counted, answered_by=A)
    counted.reset()
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"], totals["waiting"]) == (0, 1, 1)
    assert list(counted.snapshot()["models"]) == ["exaone"]
    end(counted, runs)
    end(counted, waits)
    totals = counted.snapshot()["totals"]
    assert (totals["calls"], totals["in_flight"], totals["waiting"]) == (2, 0, 0)


def test_reset_tells_since_when_it_counts() -> None:
    clock = FakeClock()
    counted = Stats(clock)
    clock.stamp = lambda: "2027-01-01T00:00:00Z"  # type: ignore[method-assign]
    assert counted.snapshot()["since"] == STAMP
    counted.reset()
    assert counted.snapshot()["since"] == "2027-01-01T00:00:00Z"


def test_the_child_of_a_fork_begins_with_nothing_and_a_free_lock() -> None:
    counted = stats()
    call(counted)
    parents = begin(counted)
    held = threading.Thread(target=counted._lock.acquire)  # as a thread held it that the child does not have
    held.start()
    held.join()
    assert counted.after_fork() is counted
    assert counted.snapshot()["totals"]["in_flight"] == 0
    end(counted, parents)
    assert counted.snapshot()["models"] == {}
    call(counted)
    assert counted.snapshot()["totals"]["calls"] == 1


# Names that callers make up


def test_models_beyond_a_number_share_rows() -> None:
    counted = stats()
    for number in range(MAX_MODELS + 50):
        call(counted, f"made up {number}")
        call(counted, f"made up {number}", "generate")
    call(counted, "made up 0")
    models = counted.snapshot()["models"]
    assert len(models) == MAX_MODELS + 1
    assert {operation: row["calls"] for operation, row in models[OTHER_MODELS].items()} == {"chat": 50, "generate": 50}
    assert models["made up 0"]["chat"]["calls"] == 2
    assert counted.snapshot()["totals"]["calls"] == 2 * (MAX_MODELS + 50) + 1


def test_a_name_that_is_too_long_has_no_row_of_its_own() -> None:
    counted = stats()
    call(counted, "a" * MAX_NAME_LENGTH)
    call(counted, "a" * (MAX_NAME_LENGTH + 1))
    assert list(counted.snapshot()["models"]) == ["a" * MAX_NAME_LENGTH, OTHER_MODELS]


def test_a_name_that_utf8_can_not_hold_has_no_row_of_its_own() -> None:
    counted = stats()
    call(counted, "한국어")
    call(counted, "half \ud800")
    assert list(counted.snapshot()["models"]) == ["한국어", OTHER_MODELS]


def test_after_a_reset_there_is_room_for_other_names() -> None:
    counted = stats()
    for number in range(MAX_MODELS):
        call(counted, f"made up {number}")
    late = begin(counted, "exaone")
    counted.reset()
    assert list(counted.snapshot()["models"]) == ["exaone"]
    end(counted, late)
    assert counted.snapshot()["totals"]["in_flight"] == 0


def made_up(counted: Stats, number: int) -> None:
    for n in range(number):
        call(counted, f"made up {n}", error="not_found")


def test_names_that_were_never_answered_leave_room_for_those_that_are() -> None:
    counted = stats()
    made_up(counted, 3 * MAX_MODELS)
    for number in range(MAX_MODELS - MAX_UNANSWERED_MODELS):
        call(counted, f"real {number}")
    models = counted.snapshot()["models"]
    assert all(models[f"real {number}"]["chat"]["calls"] == 1 for number in range(MAX_MODELS - MAX_UNANSWERED_MODELS))
    assert len(models) == MAX_MODELS + 1
    assert models[OTHER_MODELS]["chat"]["errors"] == {"not_found": 3 * MAX_MODELS - MAX_UNANSWERED_MODELS}
    assert counted.snapshot()["totals"]["calls"] == 4 * MAX_MODELS - MAX_UNANSWERED_MODELS


def test_a_name_that_is_answered_makes_room_for_others_that_are_not_yet() -> None:
    counted = stats()
    made_up(counted, MAX_UNANSWERED_MODELS)
    call(counted, "made up 0")
    call(counted, "broken", error="unreachable")
    call(counted, "broken too", error="unreachable")
    models = counted.snapshot()["models"]
    assert models["broken"]["chat"]["errors"] == {"unreachable": 1}
    assert "broken too" not in models


@pytest.mark.parametrize(("first_token", "known"), [(6 * SECOND, True), (None, False)])
def test_an_answer_that_was_cancelled_or_cut_off_was_one(first_token: int | None, known: bool) -> None:
    counted = stats()
    made_up(counted, MAX_UNANSWERED_MODELS)
    call(counted, "real", first_token=first_token, error=CANCELLED)
    assert ("real" in counted.snapshot()["models"]) is known


def test_a_call_counts_for_its_own_model_though_that_was_not_known_when_it_began() -> None:
    counted = stats()
    made_up(counted, MAX_UNANSWERED_MODELS)
    record = begin(counted, "real")
    assert counted.snapshot()["models"][OTHER_MODELS]["chat"]["in_flight"] == 1
    end(counted, record)
    models = counted.snapshot()["models"]
    assert models["real"]["chat"]["calls"] == 1
    assert (models[OTHER_MODELS]["chat"]["calls"], models[OTHER_MODELS]["chat"]["in_flight"]) == (0, 0)


def test_the_models_of_the_settings_have_rows_of_their_own_in_any_case() -> None:
    counted = Stats(FakeClock(), ("configured", "half \ud800"))
    for number in range(2 * MAX_MODELS):
        call(counted, f"answered {number}")
    call(counted, "configured", error="unreachable")
    call(counted, "half \ud800", error="unreachable")
    models = counted.snapshot()["models"]
    assert models["configured"]["chat"]["errors"] == {"unreachable": 1}
    assert len(models) == MAX_MODELS + 2
    counted.reset()
    made_up(counted, MAX_MODELS)
    call(counted, "configured", error="unreachable")
    assert "configured" in counted.snapshot()["models"]


def test_a_clients_settings_name_its_models() -> None:
    made = Dispatcher(
        Settings(
            backend_mode="vllm",
            vllm_failover={"a": "ollama:b"},
            vllm_model_map={"c": "d"},
            models={"e": Profile()},
        )
    )
    made_up(made.stats, MAX_MODELS)
    for name in "acde":
        call(made.stats, name, error="unreachable")
    assert set("acde") < set(made.stats.snapshot()["models"])


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("_round", range(5))
def test_counts_are_exact_where_names_are_made_up_in_many_threads(_round: int) -> None:
    threads, calls = 16, 200
    counted = stats()
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        together.wait()
        for n in range(calls):
            call(counted, f"made up {number} {n}", error="not_found")
            call(counted, f"real {n % 10}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    told = counted.snapshot()
    assert (told["totals"]["calls"], told["totals"]["errors"]) == (6_400, {"not_found": 3_200})
    real = {name: rows["chat"] for name, rows in told["models"].items() if name.startswith("real")}
    assert {name: (row["calls"], row["errors"]) for name, row in real.items()} == {
        f"real {n}": (320, {}) for n in range(10)
    }
    assert len(told["models"]) == 10 + MAX_UNANSWERED_MODELS + 1


# Several of them


def test_the_rows_of_several_clients_are_added_up() -> None:
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
