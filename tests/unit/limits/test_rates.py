"""The rates: exactly as many calls as they say in any stretch of their time, and the service goes on without Redis.

Redis is played here by a storage that can be made to fail; tests/integration/test_rates_redis.py asks a real one.
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
from tests.spending import let_through, spend

GATEWAY = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "nobody-may-see-this"
REDIS = f"redis://app:{PASSWORD}@127.0.0.1:6379/0"

both = pytest.mark.parametrize("kind", [SyncRates, AsyncRates])


class Wall:
    """The time of day, which `limits` reads; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class Ticks:
    """The clock of the retries, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def ticks(self) -> int:
        return round(self.now_s * 1e9)


class Store(MemoryStorage):
    """What stands for Redis: counts how often it was asked, and fails while it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.problem: Exception | None = None

    def acquire_entry(self, *args: Any, **keywords: Any) -> bool:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return super().acquire_entry(*args, **keywords)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(rates, "_storage", lambda *_: made)
    monkeypatch.setattr(rates, "_check_redis", lambda *_: None)
    return made


# As many as the rate says


@both
@pytest.mark.parametrize(("operation", "most"), [("generate", 300), ("chat", 600), ("embed", 6000)])
def test_the_gateways_figures(kind: Any, operation: str, most: int, wall: Wall) -> None:
    count, wait = let_through(kind("memory://", GATEWAY), operation)
    assert count == most
    assert 0 < wait <= 60


@both
def test_operations_have_rates_of_their_own(kind: Any) -> None:
    limiter = kind("memory://", {"chat": "2/minute", "embed": "3/minute"})
    assert let_through(limiter, "chat")[0] == 2
    assert let_through(limiter, "embed")[0] == 3


@both
def test_an_operation_without_a_rate_is_let_through(kind: Any) -> None:
    assert spend(kind("memory://", {}), "chat") == 0.0


@both
def test_no_minute_holds_more_than_the_rate_whatever_its_edges(kind: Any, wall: Wall) -> None:
    limiter = kind("memory://", {"chat": "100/minute"})
    wall.now += 59
    assert let_through(limiter, "chat")[0] == 100
    for _ in range(59):  # a fixed window would begin anew in here, a weighed one would let some through
        wall.now += 1
        assert let_through(limiter, "chat")[0] == 0
    wall.now += 1.001
    assert let_through(limiter, "chat")[0] == 100


def test_after_the_wait_that_is_told_one_call_is_let_through(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "2/minute"})
    assert limiter.spend("chat") == 0.0
    wall.now += 20
    assert limiter.spend("chat") == 0.0
    wait = limiter.spend("chat")
    assert wait == pytest.approx(40)
    wall.now += wait + 0.001
    assert limiter.spend("chat") == 0.0
    assert limiter.spend("chat") == pytest.approx(20, abs=0.01)


def test_a_refusal_is_never_told_as_no_wait(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "1/minute"})
    assert limiter.spend("chat") == 0.0
    wall.now += 60  # the call of a minute ago is still counted
    assert limiter.spend("chat") > 0


def test_a_clock_that_was_set_back_makes_no_wait_longer_than_the_rates_time(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "1/minute"})
    assert limiter.spend("chat") == 0.0
    wall.now -= 3600
    assert limiter.spend("chat") == 60


# Several rates


@both
def test_all_of_several_rates_must_have_room(kind: Any, wall: Wall) -> None:
    limiter = kind("memory://", {"chat": "50/minute;20/second"})
    counts = []
    for _ in range(4):
        counts.append(let_through(limiter, "chat")[0])
        wall.now += 1.001
    assert counts == [20, 20, 10, 0]


def test_the_longest_wait_of_several_is_told(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "2/second;2/minute"})
    assert let_through(limiter, "chat") == (2, 60)


def test_what_one_rate_refuses_costs_the_others_nothing(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "100/minute;1/second"})
    total = 0
    for _ in range(40):
        total += limiter.spend("chat") == 0.0
        assert limiter.spend("chat") > 0
        assert limiter.spend("chat") > 0
        wall.now += 1.001
    assert total == 40


def test_a_race_that_is_lost_is_lost_at_the_fullest_rate_and_costs_the_others_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = SyncRates(REDIS, {"chat": "100/minute;1/hour"})
    looked_at = []
    look = store.get_moving_window

    def then_another_process_takes(key: str, limit: int, expiry: int) -> tuple[float, int]:
        outcome = look(key, limit, expiry)
        looked_at.append(key)
        if len(looked_at) == 2:
            MemoryStorage.acquire_entry(store, "chat/1/1/hour", 1, 3600)
        return outcome

    monkeypatch.setattr(store, "get_moving_window", then_another_process_takes)
    assert limiter.spend("chat") > 60
    assert look("chat/100/1/minute", 100, 60)[1] == 0


def test_a_rate_that_stands_twice_counts_once() -> None:
    assert let_through(SyncRates("memory://", {"chat": "10/minute;10/minute"}), "chat")[0] == 10


def test_threads_share_the_places_exactly() -> None:
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


def test_to_count_in_memory_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    limiter = SyncRates("memory://", {"chat": "2/minute;3/hour"})
    assert let_through(limiter, "chat")[0] == 2
    assert started == []


def test_in_memory_no_more_is_kept_than_counts(wall: Wall) -> None:
    limiter = SyncRates("memory://", {"chat": "5/minute"})
    for _ in range(100):
        limiter.spend("chat")
        wall.now += 7.0
    assert [len(moments) for moments in limiter._here._moments.values()] == [5]


# Redis away


@both
def test_without_redis_the_same_rates_are_counted_here(kind: Any, store: Store) -> None:
    store.problem = ConnectionError("no route")
    assert let_through(kind(REDIS, {"chat": "7/minute"}), "chat")[0] == 7


@both
@pytest.mark.parametrize("problem", [ConnectionError(), TimeoutError(), RuntimeError("a fault of the package")])
def test_whatever_fails_the_service_goes_on(kind: Any, problem: Exception, store: Store) -> None:
    store.problem = problem
    assert spend(kind(REDIS, GATEWAY), "chat") == 0.0


@both
def test_redis_is_left_alone_for_a_while_and_then_asked_by_one(kind: Any, store: Store) -> None:
    ticks = Ticks()
    limiter = kind(REDIS, GATEWAY, clock=ticks)
    store.problem = ConnectionError()
    for _ in range(5):
        spend(limiter, "chat")
    assert store.asked == 1
    ticks.now_s += RETRY_S - 0.1
    spend(limiter, "chat")
    assert store.asked == 1
    ticks.now_s += 0.2
    for _ in range(5):
        spend(limiter, "chat")
    assert store.asked == 2


def test_while_one_caller_tries_redis_again_the_others_do_not_wait_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks()
    limiter = SyncRates(REDIS, GATEWAY, clock=ticks)
    store.problem = ConnectionError()
    limiter.spend("chat")
    ticks.now_s += RETRY_S
    tries, goes_on = threading.Event(), threading.Event()
    tried_by = []

    def slow(*_args: Any, **_keywords: Any) -> bool:
        tried_by.append(threading.current_thread())
        tries.set()
        goes_on.wait(10)
        raise ConnectionError

    monkeypatch.setattr(store, "acquire_entry", slow)
    trier = threading.Thread(target=limiter.spend, args=("chat",))
    trier.start()
    assert tries.wait(30)
    assert limiter.spend("chat") == 0.0
    goes_on.set()
    trier.join()
    assert tried_by == [trier]


@both
def test_the_log_says_once_that_redis_is_away_and_once_that_it_is_back(
    kind: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Ticks()
    limiter = kind(REDIS, GATEWAY, clock=ticks)
    store.problem = ConnectionError("refused")
    for _ in range(3):
        spend(limiter, "chat")
        spend(limiter, "embed")
        ticks.now_s += RETRY_S
    store.problem = None
    for _ in range(3):
        spend(limiter, "chat")
    lost, found = caplog.records
    assert {record.name for record in caplog.records} == {"ollama_compat.dispatch"}
    assert lost.levelno == found.levelno == logging.WARNING
    assert (
        vars(lost).items()
        >= {
            "event": "rates_lost",
            "limits": "redis://***@127.0.0.1:6379/0",
            "reason": "ConnectionError: refused",
            "retry_s": 10.0,
        }.items()
    )
    assert vars(found).items() >= {"event": "rates_found", "limits": "redis://***@127.0.0.1:6379/0"}.items()
    assert "counts for itself" in lost.getMessage()
    assert "again" in found.getMessage()


def test_the_first_call_of_an_operation_without_a_rate_is_no_sign_of_redis(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Ticks()
    limiter = SyncRates(REDIS, {"chat": "1/minute"}, clock=ticks)
    store.problem = ConnectionError()
    limiter.spend("chat")
    ticks.now_s += RETRY_S
    limiter.spend("embed")
    assert len(caplog.records) == 1


# The password


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://:{PASSWORD}@host:6379/0", f"Error with {PASSWORD}"),
        (f"redis://app:{PASSWORD}%40x@host:6379/0", f"Error with {PASSWORD}@x and {PASSWORD}%40x"),
        (f"redis://host:6379/0?password={PASSWORD}%40x", f"Error with {PASSWORD}@x"),
        (f"redis+sentinel://:{PASSWORD}@host:1,other:2/service", f"No master at :{PASSWORD}"),
        (f"redis://:{PASSWORD}@host:6379/0", f"Unable to parse redis://:{PASSWORD}@host:6379/0"),
    ],
)
def test_no_log_shows_the_password(url: str, said: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.problem = ConnectionError(said)
    limiter = SyncRates(url, GATEWAY)
    limiter.spend("chat")
    (record,) = caplog.records
    assert PASSWORD not in record.getMessage() + str(vars(record))
    assert "***" in vars(record)["reason"]
    assert PASSWORD not in repr(limiter) + repr(AsyncRates(url, GATEWAY))


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster"])
def test_no_log_of_any_library_shows_the_password(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = {"redis+unix": "/nobody/is/here.sock", "redis+sentinel": "127.0.0.1:1/service"}.get(scheme, "127.0.0.1:1")
    limiter = SyncRates(f"{scheme}://app:{PASSWORD}@{place}", GATEWAY)
    assert limiter.spend("chat") == 0.0
    assert "rates_lost" in [vars(record).get("event") for record in caplog.records], "it was tried"
    shown = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert PASSWORD not in shown


def test_a_long_reason_is_cut_after_the_password_is_hidden(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.problem = ConnectionError("x" * 180 + PASSWORD + "x" * 200)
    SyncRates(REDIS, GATEWAY).spend("chat")
    (record,) = caplog.records
    assert vars(record)["reason"] == "ConnectionError: " + "x" * 180 + "***" + "…"
