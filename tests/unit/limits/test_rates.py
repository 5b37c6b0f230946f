"""The rate limits: no period contains more calls than the rate allows, and calls continue when Redis fails.

A fake storage replaces Redis and fails on demand. tests/integration/test_rates_redis.py uses a real Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from limits.storage import MemoryStorage

from ollama_compat.limits import rates
from ollama_compat.limits.rates import RETRY_S, AsyncRates, SyncRates
from tests.spending import admit_all, spend

RATES = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "a-secret-password"
REDIS = f"redis://app:{PASSWORD}@127.0.0.1:6379/0"

both = pytest.mark.parametrize("kind", [SyncRates, AsyncRates])


class FakeTime:
    """Replaces `time.time`, which `limits` reads. A test advances it."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class RetryClock:
    """The clock that times the retries of Redis. A test advances it."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def ticks(self) -> int:
        return round(self.now_s * 1e9)


class FakeRedis(MemoryStorage):
    """Replaces the storage in Redis: counts requests, and raises `error` if it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.error: Exception | None = None

    def acquire_entry(self, *args: Any, **keywords: Any) -> bool:
        self.requests += 1
        if self.error is not None:
            raise self.error
        return super().acquire_entry(*args, **keywords)


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    made = FakeRedis()
    monkeypatch.setattr(rates, "_redis_storage", lambda *_: made)
    monkeypatch.setattr(rates, "_check_redis", lambda *_: None)
    return made


# The number of admitted calls


@both
@pytest.mark.parametrize(("operation", "limit"), [("generate", 300), ("chat", 600), ("embed", 6000)])
def test_limiter_admits_exactly_the_rate(kind: Any, operation: str, limit: int, fake_time: FakeTime) -> None:
    count, wait = admit_all(kind("memory://", RATES), operation)
    assert count == limit
    assert 0 < wait <= 60


@both
def test_operations_have_separate_rates(kind: Any) -> None:
    limiter = kind("memory://", {"chat": "2/minute", "embed": "3/minute"})
    assert admit_all(limiter, "chat")[0] == 2
    assert admit_all(limiter, "embed")[0] == 3


@both
def test_operation_without_rate_is_admitted(kind: Any) -> None:
    assert spend(kind("memory://", {}), "chat") == 0.0


@both
def test_no_minute_contains_more_calls_than_the_rate(kind: Any, fake_time: FakeTime) -> None:
    limiter = kind("memory://", {"chat": "100/minute"})
    fake_time.now += 59
    assert admit_all(limiter, "chat")[0] == 100
    for _ in range(59):  # a fixed window or a sliding window counter would admit calls here
        fake_time.now += 1
        assert admit_all(limiter, "chat")[0] == 0
    fake_time.now += 1.001
    assert admit_all(limiter, "chat")[0] == 100


def test_one_call_is_admitted_after_the_returned_wait(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "2/minute"})
    assert limiter.spend("chat") == 0.0
    fake_time.now += 20
    assert limiter.spend("chat") == 0.0
    wait = limiter.spend("chat")
    assert wait == pytest.approx(40)
    fake_time.now += wait + 0.001
    assert limiter.spend("chat") == 0.0
    assert limiter.spend("chat") == pytest.approx(20, abs=0.01)


def test_refused_call_never_receives_zero_wait(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "1/minute"})
    assert limiter.spend("chat") == 0.0
    fake_time.now += 60  # the call of exactly one minute ago still counts
    assert limiter.spend("chat") > 0


def test_wait_is_at_most_the_period_when_clock_was_set_back(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "1/minute"})
    assert limiter.spend("chat") == 0.0
    fake_time.now -= 3600
    assert limiter.spend("chat") == 60


# Several rates


@both
def test_call_is_admitted_only_when_all_rates_allow_it(kind: Any, fake_time: FakeTime) -> None:
    limiter = kind("memory://", {"chat": "50/minute;20/second"})
    counts = []
    for _ in range(4):
        counts.append(admit_all(limiter, "chat")[0])
        fake_time.now += 1.001
    assert counts == [20, 20, 10, 0]


def test_refused_call_receives_the_longest_wait(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "2/second;2/minute"})
    assert admit_all(limiter, "chat") == (2, 60)


def test_refusal_by_one_rate_takes_no_call_from_the_others(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "100/minute;1/second"})
    total = 0
    for _ in range(40):
        total += limiter.spend("chat") == 0.0
        assert limiter.spend("chat") > 0
        assert limiter.spend("chat") > 0
        fake_time.now += 1.001
    assert total == 40


def test_lost_race_for_the_fullest_rate_takes_no_call_from_the_others(
    store: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = SyncRates(REDIS, {"chat": "100/minute;1/hour"})
    checked = []
    check = store.get_moving_window

    def check_then_lose_race(key: str, limit: int, expiry: int) -> tuple[float, int]:
        outcome = check(key, limit, expiry)
        checked.append(key)
        if len(checked) == 2:
            MemoryStorage.acquire_entry(store, "chat/1/1/hour", 1, 3600)
        return outcome

    monkeypatch.setattr(store, "get_moving_window", check_then_lose_race)
    assert limiter.spend("chat") > 60
    assert check("chat/100/1/minute", 100, 60)[1] == 0


def test_duplicate_rate_counts_once() -> None:
    assert admit_all(SyncRates("memory://", {"chat": "10/minute;10/minute"}), "chat")[0] == 10


def test_threads_share_a_rate_exactly() -> None:
    limiter = SyncRates("memory://", {"chat": "500/hour"})
    begin = threading.Barrier(4)
    counts: list[int] = []

    def work() -> None:
        begin.wait()
        counts.append(sum(limiter.spend("chat") == 0.0 for _ in range(400)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 500


def test_counting_in_memory_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    limiter = SyncRates("memory://", {"chat": "2/minute;3/hour"})
    assert admit_all(limiter, "chat")[0] == 2
    assert started == []


def test_memory_window_drops_expired_calls(fake_time: FakeTime) -> None:
    limiter = SyncRates("memory://", {"chat": "5/minute"})
    for _ in range(100):
        limiter.spend("chat")
        fake_time.now += 7.0
    assert [len(times) for times in limiter._local._times.values()] == [5]


# Redis fails


@both
def test_rates_are_counted_in_memory_when_redis_fails(kind: Any, store: FakeRedis) -> None:
    store.error = ConnectionError("no route")
    assert admit_all(kind(REDIS, {"chat": "7/minute"}), "chat")[0] == 7


@both
@pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), RuntimeError("a bug in the package")])
def test_call_is_admitted_when_redis_raises_any_error(kind: Any, error: Exception, store: FakeRedis) -> None:
    store.error = error
    assert spend(kind(REDIS, RATES), "chat") == 0.0


@both
def test_redis_is_retried_once_per_retry_interval(kind: Any, store: FakeRedis) -> None:
    retry_clock = RetryClock()
    limiter = kind(REDIS, RATES, clock=retry_clock)
    store.error = ConnectionError()
    for _ in range(5):
        spend(limiter, "chat")
    assert store.requests == 1
    retry_clock.now_s += RETRY_S - 0.1
    spend(limiter, "chat")
    assert store.requests == 1
    retry_clock.now_s += 0.2
    for _ in range(5):
        spend(limiter, "chat")
    assert store.requests == 2


def test_other_callers_do_not_wait_while_one_retries_redis(store: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    retry_clock = RetryClock()
    limiter = SyncRates(REDIS, RATES, clock=retry_clock)
    store.error = ConnectionError()
    limiter.spend("chat")
    retry_clock.now_s += RETRY_S
    retrying, finish = threading.Event(), threading.Event()
    retried_by = []

    def slow(*_args: Any, **_keywords: Any) -> bool:
        retried_by.append(threading.current_thread())
        retrying.set()
        finish.wait(10)
        raise ConnectionError

    monkeypatch.setattr(store, "acquire_entry", slow)
    retrier = threading.Thread(target=limiter.spend, args=("chat",))
    retrier.start()
    assert retrying.wait(30)
    assert limiter.spend("chat") == 0.0
    finish.set()
    retrier.join()
    assert retried_by == [retrier]


@both
def test_failure_and_recovery_of_redis_are_each_logged_once(
    kind: Any, store: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    retry_clock = RetryClock()
    limiter = kind(REDIS, RATES, clock=retry_clock)
    store.error = ConnectionError("refused")
    for _ in range(3):
        spend(limiter, "chat")
        spend(limiter, "embed")
        retry_clock.now_s += RETRY_S
    store.error = None
    for _ in range(3):
        spend(limiter, "chat")
    failed, restored = caplog.records
    assert {record.name for record in caplog.records} == {"ollama_compat.dispatch"}
    assert failed.levelno == restored.levelno == logging.WARNING
    assert (
        vars(failed).items()
        >= {
            "event": "rate storage failed",
            "storage": "redis://***@127.0.0.1:6379/0",
            "cause": "ConnectionError: refused",
            "retry_s": 10.0,
        }.items()
    )
    assert (
        vars(restored).items() >= {"event": "rate storage restored", "storage": "redis://***@127.0.0.1:6379/0"}.items()
    )
    assert "this client counts its own calls" in failed.getMessage()
    assert "again" in restored.getMessage()


def test_call_without_rate_does_not_count_as_recovery_of_redis(
    store: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    retry_clock = RetryClock()
    limiter = SyncRates(REDIS, {"chat": "1/minute"}, clock=retry_clock)
    store.error = ConnectionError()
    limiter.spend("chat")
    retry_clock.now_s += RETRY_S
    limiter.spend("embed")
    assert len(caplog.records) == 1


# The password


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"redis://:{PASSWORD}@host:6379/0", f"Error with {PASSWORD}"),
        (f"redis://app:{PASSWORD}%40x@host:6379/0", f"Error with {PASSWORD}@x and {PASSWORD}%40x"),
        (f"redis://host:6379/0?password={PASSWORD}%40x", f"Error with {PASSWORD}@x"),
        (f"redis+sentinel://:{PASSWORD}@host:1,other:2/service", f"No master at :{PASSWORD}"),
        (f"redis://:{PASSWORD}@host:6379/0", f"Unable to parse redis://:{PASSWORD}@host:6379/0"),
    ],
)
def test_log_does_not_contain_password(
    url: str, message: str, store: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    store.error = ConnectionError(message)
    limiter = SyncRates(url, RATES)
    limiter.spend("chat")
    (record,) = caplog.records
    assert PASSWORD not in record.getMessage() + str(vars(record))
    assert "***" in vars(record)["cause"]
    assert PASSWORD not in repr(limiter) + repr(AsyncRates(url, RATES))


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster"])
def test_logs_of_all_libraries_do_not_contain_password(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    address = {"redis+unix": "/no/such/file.sock", "redis+sentinel": "127.0.0.1:1/service"}.get(scheme, "127.0.0.1:1")
    limiter = SyncRates(f"{scheme}://app:{PASSWORD}@{address}", RATES)
    assert limiter.spend("chat") == 0.0
    assert "rate storage failed" in [vars(record).get("event") for record in caplog.records]
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert PASSWORD not in logged


def test_long_error_is_cut_after_password_is_redacted(store: FakeRedis, caplog: pytest.LogCaptureFixture) -> None:
    store.error = ConnectionError("x" * 180 + PASSWORD + "x" * 200)
    SyncRates(REDIS, RATES).spend("chat")
    (record,) = caplog.records
    assert vars(record)["cause"] == "ConnectionError: " + "x" * 180 + "***" + "…"
