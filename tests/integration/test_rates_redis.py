"""The rates on a real Redis: exact among processes, and the service goes on when Redis does not."""

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
from tests.spending import let_through, spend

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not on PATH")

GATEWAY = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "nobody@may:see/this"
ENCODED = "nobody%40may%3Asee%2Fthis"

both = pytest.mark.parametrize("kind", [SyncRates, AsyncRates])


class Server:
    """A Redis of this test alone, on a free port and on a socket; nothing is written to disk."""

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.place = f"redis://127.0.0.1:{self.port}/0"
        self.unix = folder / "redis.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it takes connections."""
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.unix))
        self._process = subprocess.Popen(
            ["redis-server", *where, "--save", "", "--appendonly", "no", *self._options],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                return
        raise AssertionError(f"redis-server ended:\n{''.join(said)}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """From now on it takes connections and answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def keys(self) -> dict[str, int]:
        """Each key with the number of calls that it holds."""
        with redis.Redis(port=self.port) as client:
            return {key.decode(): client.llen(key) for key in client.keys("*")}


class Ticks:
    """The clock of the retries, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def ticks(self) -> int:
        return round(self.now_s * 1e9)


class Wall:
    """The time of day, which `limits` reads; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server with the options that are given."""
    servers = []

    def start(*options: str) -> Server:
        server = Server(tmp_path, options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(launch: Callable[..., Server]) -> Server:
    return launch()


# As many as the rate says


@both
@pytest.mark.parametrize(("operation", "most"), [("generate", 300), ("chat", 600), ("embed", 6000)])
def test_the_gateways_figures(
    kind: Any, operation: str, most: int, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    count, wait = let_through(kind(server.place, GATEWAY), operation)
    assert count == most
    assert 0 < wait <= 60
    assert server.keys() == {f"ollama-compat:{operation}/{most}/1/minute": most}
    assert not caplog.records


@both
def test_no_minute_holds_more_than_the_rate_whatever_its_edges(kind: Any, server: Server, wall: Wall) -> None:
    limiter = kind(server.place, {"chat": "100/minute"})
    assert let_through(limiter, "chat")[0] == 100
    for _ in range(5):
        wall.now += 11.9
        assert let_through(limiter, "chat")[0] == 0
    wall.now += 0.6
    assert let_through(limiter, "chat")[0] == 100


@both
def test_several_rates_must_all_have_room_and_a_refusal_costs_none(kind: Any, server: Server, wall: Wall) -> None:
    limiter = kind(server.place, {"chat": "50/minute;20/second"})
    counts = []
    for _ in range(4):
        counts.append(let_through(limiter, "chat")[0])
        wall.now += 1.01
    assert counts == [20, 20, 10, 0]
    assert server.keys()["ollama-compat:chat/50/1/minute"] == 50


# Among clients and processes


def test_clients_of_either_kind_share_the_places(server: Server) -> None:
    first, second = SyncRates(server.place, GATEWAY), AsyncRates(server.place, GATEWAY)
    assert sum(spend(limiter, "generate") == 0.0 for _ in range(200) for limiter in (first, second)) == 300


def test_a_namespace_or_a_database_of_its_own_has_places_of_its_own(server: Server) -> None:
    limiters = [
        SyncRates(server.place, {"chat": "5/minute"}),
        SyncRates(server.place, {"chat": "5/minute"}, namespace="another"),
        SyncRates(server.place.removesuffix("0") + "1", {"chat": "5/minute"}),
    ]
    assert [let_through(limiter, "chat")[0] for limiter in limiters] == [5, 5, 5]
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


def counts_of_processes(server: Server, rate: str, tries: int) -> list[int]:
    """How many calls are let through in each of two processes that try at the same time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ANOTHER_PROCESS, server.place, kind, rate, str(tries)],
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
    said = [process.communicate() for process in processes]
    assert [error for _, error in said] == ["", ""]  # neither lost Redis, which it would have logged
    return [int(count) for count, _ in said]


def test_two_processes_share_the_places_exactly(server: Server) -> None:
    counts = counts_of_processes(server, "1000/hour", 900)
    assert sum(counts) == 1000
    assert all(counts)


def test_two_processes_share_several_rates_and_lose_nothing_of_the_roomier_one(server: Server) -> None:
    counts = counts_of_processes(server, "900/hour;400/day", 350)
    assert sum(counts) == 400
    assert server.keys()["ollama-compat:chat/900/1/hour"] == 400


# Event loops


def test_one_client_serves_several_event_loops_at_once_and_after_another(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = AsyncRates(server.place, {"chat": "100/hour"})
    counts: list[int] = []

    def loop_of_its_own() -> None:
        counts.append(let_through(limiter, "chat")[0])

    threads = [threading.Thread(target=loop_of_its_own) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100
    assert spend(limiter, "chat") > 0
    assert not caplog.records


def test_the_event_loop_goes_on_while_redis_does_not_answer(server: Server) -> None:
    limiter = AsyncRates(server.place, GATEWAY)
    server.freeze()

    async def both_go_on() -> None:
        spent = asyncio.create_task(limiter.spend("chat"))
        turns = 0
        while not spent.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 10
        assert await spent == 0.0

    asyncio.run(both_go_on())


# Redis away


@both
def test_redis_is_stopped_and_started_again(kind: Any, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    ticks = Ticks()
    limiter = kind(server.place, {"chat": "10/minute"}, clock=ticks)
    assert spend(limiter, "chat") == 0.0
    server.stop()
    assert let_through(limiter, "chat")[0] == 10  # counted here, with the whole rate
    ticks.now_s += RETRY_S
    assert spend(limiter, "chat") > 0
    assert [vars(record)["event"] for record in caplog.records] == ["rates_lost"]
    server.start()
    ticks.now_s += RETRY_S
    assert spend(limiter, "chat") == 0.0
    assert server.keys() == {"ollama-compat:chat/10/1/minute": 1}
    assert [vars(record)["event"] for record in caplog.records] == ["rates_lost", "rates_found"]


@both
def test_redis_takes_connections_and_answers_nothing(
    kind: Any, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Ticks()
    limiter = kind(server.place, {"chat": "10/minute"}, clock=ticks)
    assert spend(limiter, "chat") == 0.0
    server.freeze()
    assert let_through(limiter, "chat")[0] == 10
    (lost,) = caplog.records
    assert "TimeoutError" in vars(lost)["reason"]
    server.thaw()
    ticks.now_s += RETRY_S
    assert spend(limiter, "chat") == 0.0
    assert vars(caplog.records[-1])["event"] == "rates_found"
    assert spend(limiter, "chat") == 0.0  # replies are not taken for those of requests that were given up


@both
def test_redis_is_not_there_from_the_start(kind: Any, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.stop()
    assert let_through(kind(server.place, {"chat": "10/minute"}), "chat")[0] == 10
    (lost,) = caplog.records
    assert lost.name == "ollama_compat.dispatch"
    assert lost.levelno == logging.WARNING
    assert vars(lost)["limits"] == server.place


@both
def test_a_restart_that_forgets_the_scripts_goes_unnoticed(
    kind: Any, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = kind(server.place, GATEWAY)
    assert spend(limiter, "chat") == 0.0
    server.stop()
    server.start()
    assert spend(limiter, "chat") == 0.0
    assert server.keys() == {"ollama-compat:chat/600/1/minute": 1}
    assert not caplog.records


@both
def test_a_wrong_password_is_logged_without_it(
    kind: Any, launch: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # what redis-py and `limits` log too
    server = launch("--requirepass", "another")
    place = server.place.replace("//", f"//:{ENCODED}@")
    assert spend(kind(place, GATEWAY), "chat") == 0.0
    (lost,) = (record for record in caplog.records if "event" in vars(record))
    assert "AuthenticationError" in vars(lost)["reason"]
    assert vars(lost)["limits"] == server.place.replace("//", "//***@")
    for form in (PASSWORD, ENCODED):
        assert form not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


@both
def test_the_right_password_opens(kind: Any, launch: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    server = launch("--requirepass", PASSWORD)
    assert let_through(kind(server.place.replace("//", f"//:{ENCODED}@"), {"chat": "5/minute"}), "chat")[0] == 5
    assert not caplog.records


@both
def test_a_replica_that_may_not_be_written_to(
    kind: Any, launch: Callable[..., Server], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    replica = launch("--replicaof", f"127.0.0.1 {server.port}", "--unixsocket", "")
    assert let_through(kind(replica.place, {"chat": "5/minute"}), "chat")[0] == 5
    (lost,) = caplog.records
    assert "ReadOnlyError" in vars(lost)["reason"]


@both
def test_a_unix_socket(kind: Any, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    limiter = kind(f"redis+unix://{server.unix}?db=0", {"chat": "5/minute"})
    assert let_through(limiter, "chat")[0] == 5
    assert server.keys() == {"ollama-compat:chat/5/1/minute": 5}
    assert not caplog.records
