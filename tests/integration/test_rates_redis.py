"""The rate limits with a real Redis: exact across processes, and calls continue when Redis fails."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ollama_compat.limits.rates import RETRY_S, AsyncRates, SyncRates
from tests.spending import admit_all, spend

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not on PATH")

RATES = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "a@secret:pass/word"
ENCODED = "a%40secret%3Apass%2Fword"

both = pytest.mark.parametrize("kind", [SyncRates, AsyncRates])


class RedisServer:
    """A Redis server on a free port and a Unix socket. It writes nothing to disk."""

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix = folder / "redis.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        addresses = ("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.unix))
        self._process = subprocess.Popen(
            ["redis-server", *addresses, "--save", "", "--appendonly", "no", *self._options],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        output = []
        for line in self._process.stdout:
            output.append(line)
            if "Ready to accept connections" in line:
                return
        raise AssertionError(f"redis-server ended:\n{''.join(output)}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Suspend the process: it accepts connections and sends no replies."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def keys(self) -> dict[str, int]:
        """The number of calls in each key."""
        with redis.Redis(port=self.port) as client:
            return {key.decode(): client.llen(key) for key in client.keys("*")}


class RetryClock:
    """The clock that times the retries of Redis. A test advances it."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def ticks(self) -> int:
        return round(self.now_s * 1e9)


class FakeTime:
    """Replaces `time.time`, which `limits` reads. A test advances it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Reiterations a function that starts a server with further options."""
    servers = []

    def start(*options: str) -> RedisServer:
        server = RedisServer(tmp_path, options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(launch: Callable[..., RedisServer]) -> RedisServer:
    return launch()


# The number of admitted calls


@both
@pytest.mark.parametrize(("operation", "limit"), [("generate", 300), ("chat", 600), ("embed", 6000)])
def test_limiter_admits_exactly_the_rate(
    kind: Any, operation: str, limit: int, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    count, wait = admit_all(kind(server.url, RATES), operation)
    assert count == limit
    assert 0 < wait <= 60
    assert server.keys() == {f"ollama-compat:{operation}/{limit}/1/minute": limit}
    assert not caplog.records


@both
def test_no_minute_contains_more_calls_than_the_rate(kind: Any, server: RedisServer, fake_time: FakeTime) -> None:
    limiter = kind(server.url, {"chat": "100/minute"})
    assert admit_all(limiter, "chat")[0] == 100
    for _ in range(5):
        fake_time.now += 11.9
        assert admit_all(limiter, "chat")[0] == 0
    fake_time.now += 0.6
    assert admit_all(limiter, "chat")[0] == 100


@both
def test_refusal_by_one_rate_takes_no_call_from_the_others(kind: Any, server: RedisServer, fake_time: FakeTime) -> None:
    limiter = kind(server.url, {"chat": "50/minute;20/second"})
    counts = []
    for _ in range(4):
        counts.append(admit_all(limiter, "chat")[0])
        fake_time.now += 1.01
    assert counts == [20, 20, 10, 0]
    assert server.keys()["ollama-compat:chat/50/1/minute"] == 50


# Several clients and processes


def test_sync_and_async_clients_share_a_rate(server: RedisServer) -> None:
    first, second = SyncRates(server.url, RATES), AsyncRates(server.url, RATES)
    assert sum(spend(limiter, "generate") == 0.0 for _ in range(200) for limiter in (first, second)) == 300


def test_other_namespace_or_database_has_separate_rates(server: RedisServer) -> None:
    limiters = [
        SyncRates(server.url, {"chat": "5/minute"}),
        SyncRates(server.url, {"chat": "5/minute"}, namespace="another"),
        SyncRates(server.url.removesuffix("0") + "1", {"chat": "5/minute"}),
    ]
    assert [admit_all(limiter, "chat")[0] for limiter in limiters] == [5, 5, 5]
    assert server.keys() == {"ollama-compat:chat/5/1/minute": 5, "another:chat/5/1/minute": 5}


ANOTHER_PROCESS = """
import asyncio, sys
from ollama_compat.limits.rates import AsyncRates, SyncRates

url, kind, rate, tries = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

async def many(limiter):
    return sum([await limiter.spend("chat") == 0.0 for _ in range(tries)])

limiter = (AsyncRates if kind == "async" else SyncRates)(url, {"chat": rate, "ready": "9/minute"})
asyncio.run(limiter.spend("ready")) if kind == "async" else limiter.spend("ready")
print("ready", flush=True)
sys.stdin.readline()
print(asyncio.run(many(limiter)) if kind == "async" else sum(limiter.spend("chat") == 0.0 for _ in range(tries)))
"""


def counts_of_processes(server: RedisServer, rate: str, tries: int) -> list[int]:
    """The number of admitted calls in each of two concurrent processes."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ANOTHER_PROCESS, server.url, kind, rate, str(tries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in ("sync", "async")
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [error for _, error in outputs] == ["", ""]  # no failure of Redis was logged
    return [int(count) for count, _ in outputs]


def test_two_processes_share_a_rate_exactly(server: RedisServer) -> None:
    counts = counts_of_processes(server, "1000/hour", 900)
    assert sum(counts) == 1000
    assert all(counts)


def test_two_processes_share_several_rates_and_lose_no_calls(server: RedisServer) -> None:
    counts = counts_of_processes(server, "900/hour;400/day", 350)
    assert sum(counts) == 400
    assert server.keys()["ollama-compat:chat/900/1/hour"] == 400


# Event loops


def test_async_limiter_works_in_concurrent_and_consecutive_event_loops(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = AsyncRates(server.url, {"chat": "100/hour"})
    counts: list[int] = []

    def run_in_new_loop() -> None:
        counts.append(admit_all(limiter, "chat")[0])

    threads = [threading.Thread(target=run_in_new_loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100
    assert spend(limiter, "chat") > 0
    assert not caplog.records


def test_event_loop_is_not_blocked_while_redis_does_not_reply(server: RedisServer) -> None:
    limiter = AsyncRates(server.url, RATES)
    server.freeze()

    async def count_iterations() -> None:
        spent = asyncio.create_task(limiter.spend("chat"))
        iterations = 0
        while not spent.done():
            iterations += 1
            await asyncio.sleep(0)
        assert iterations > 10
        assert await spent == 0.0

    asyncio.run(count_iterations())


# Redis fails


@both
def test_limiter_recovers_after_redis_restarts(
    kind: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    retry_clock = RetryClock()
    limiter = kind(server.url, {"chat": "10/minute"}, clock=retry_clock)
    assert spend(limiter, "chat") == 0.0
    server.stop()
    assert admit_all(limiter, "chat")[0] == 10  # counted in memory, with the full rate
    retry_clock.now_s += RETRY_S
    assert spend(limiter, "chat") > 0
    assert [vars(record)["event"] for record in caplog.records] == ["rate storage failed"]
    server.start()
    retry_clock.now_s += RETRY_S
    assert spend(limiter, "chat") == 0.0
    assert server.keys() == {"ollama-compat:chat/10/1/minute": 1}
    assert [vars(record)["event"] for record in caplog.records] == ["rate storage failed", "rate storage restored"]


@both
def test_limiter_counts_in_memory_while_redis_does_not_reply(
    kind: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    retry_clock = RetryClock()
    limiter = kind(server.url, {"chat": "10/minute"}, clock=retry_clock)
    assert spend(limiter, "chat") == 0.0
    server.freeze()
    assert admit_all(limiter, "chat")[0] == 10
    (failed,) = caplog.records
    assert "TimeoutError" in vars(failed)["cause"]
    server.thaw()
    retry_clock.now_s += RETRY_S
    assert spend(limiter, "chat") == 0.0
    assert vars(caplog.records[-1])["event"] == "rate storage restored"
    assert spend(limiter, "chat") == 0.0  # a late reply is not taken for the reply to a later request


@both
def test_limiter_counts_in_memory_when_redis_is_unreachable_from_the_start(
    kind: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    assert admit_all(kind(server.url, {"chat": "10/minute"}), "chat")[0] == 10
    (failed,) = caplog.records
    assert failed.name == "ollama_compat.dispatch"
    assert failed.levelno == logging.WARNING
    assert vars(failed)["storage"] == server.url


@both
def test_limiter_works_after_redis_loses_its_scripts(
    kind: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = kind(server.url, RATES)
    assert spend(limiter, "chat") == 0.0
    server.stop()
    server.start()
    assert spend(limiter, "chat") == 0.0
    assert server.keys() == {"ollama-compat:chat/600/1/minute": 1}
    assert not caplog.records


@both
def test_wrong_password_is_logged_without_the_password(
    kind: Any, launch: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # includes the logs of redis-py and `limits`
    server = launch("--requirepass", "another")
    url = server.url.replace("//", f"//:{ENCODED}@")
    assert spend(kind(url, RATES), "chat") == 0.0
    (failed,) = (record for record in caplog.records if "event" in vars(record))
    assert "AuthenticationError" in vars(failed)["cause"]
    assert vars(failed)["storage"] == server.url.replace("//", "//***@")
    for form in (PASSWORD, ENCODED):
        assert form not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


@both
def test_limiter_connects_with_correct_password(
    kind: Any, launch: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = launch("--requirepass", PASSWORD)
    assert admit_all(kind(server.url.replace("//", f"//:{ENCODED}@"), {"chat": "5/minute"}), "chat")[0] == 5
    assert not caplog.records


@both
def test_limiter_counts_in_memory_when_redis_is_a_read_only_replica(
    kind: Any, launch: Callable[..., RedisServer], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    replica = launch("--replicaof", f"127.0.0.1 {server.port}", "--unixsocket", "")
    assert admit_all(kind(replica.url, {"chat": "5/minute"}), "chat")[0] == 5
    (failed,) = caplog.records
    assert "ReadOnlyError" in vars(failed)["cause"]


@both
def test_limiter_connects_to_unix_socket(kind: Any, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    limiter = kind(f"redis+unix://{server.unix}?db=0", {"chat": "5/minute"})
    assert admit_all(limiter, "chat")[0] == 5
    assert server.keys() == {"ollama-compat:chat/5/1/minute": 5}
    assert not caplog.records
