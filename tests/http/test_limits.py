"""Limits: rates and concurrency of the calls of a client, and the queue of waiting calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

import ollama_compat as ollama
from ollama_compat import ResponseError

from .network import CHAT, END, content_event
from .sockets import HOLD, PATIENCE_S, Pieces, Received, Server, serves, streamed, whole

EMBEDDED = {"data": [{"embedding": [1.0], "index": 0}], "usage": {"prompt_tokens": 1}}
EMBED = "/v1/embeddings"
SERVED = {"/v1/models": serves("smol"), CHAT: streamed(content_event("Hello"), END), EMBED: whole(EMBEDDED)}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "hi"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "embed": {"input": "hi"},
}


class Crowd:
    """Concurrent calls of one client: threads of a `Client`, or tasks of an `AsyncClient` in one event loop."""

    def __init__(self, client: Any, pool: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop | None) -> None:
        self.client = client
        self._pool = pool
        self._loop = loop

    def begin(self, method: str = "chat", **changes: Any) -> Future[Any]:
        """Starts a call."""
        arguments = {"model": "smol", **ARGUMENTS[method], **changes}
        return self._begin(getattr(self.client, method), **arguments)

    def chat(self, text: str) -> Future[Any]:
        """Starts a chat with a text that identifies it."""
        return self.begin(messages=[{"role": "user", "content": text}])

    def call(self, method: str = "chat", **changes: Any) -> Any:
        """Makes a call and returns its answer."""
        return self.begin(method, **changes).result(PATIENCE_S)

    def next(self, stream: Any) -> Any:
        """The next part of a stream, None at its end."""
        if self._loop is None:
            return next(stream, None)
        return self._begin(lambda: anext(stream, None)).result(PATIENCE_S)

    def close(self, stream: Any) -> None:
        self._begin(stream.close if self._loop is None else stream.aclose).result(PATIENCE_S)

    def finish(self) -> None:
        self._begin(self.client.close).result(PATIENCE_S)

    @property
    def counts(self) -> tuple[int, int]:
        """Waiting calls, calls in flight."""
        totals = self.client.stats()["totals"]
        return totals["waiting"], totals["in_flight"]

    @property
    def queued(self) -> int:
        """How many calls wait for a slot."""
        return self.client._dispatcher._admission._slots.waiting

    def _begin(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        if self._loop is None:
            return self._pool.submit(function, **arguments)

        async def awaited() -> Any:
            return await function(**arguments)

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop)


def until(happened: Callable[[], bool]) -> None:
    """Polls for a condition without an event, such as a call in a queue."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(params=["threads", "tasks"])
def crowd(request: pytest.FixtureRequest) -> Iterator[Callable[..., Crowd]]:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(32))
        loop = stack.enter_context(_running_loop()) if request.param == "tasks" else None
        kind = ollama.Client if loop is None else ollama.AsyncClient

        def make(url: str, **settings: Any) -> Crowd:
            made = Crowd(kind(backend_mode="vllm", vllm_urls=url, trust_env=False, **settings), pool, loop)
            stack.callback(made.finish)
            return made

        yield make


class _running_loop:
    """An event loop in a thread."""

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self._loop

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_asyncgens(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that replies at once."""
    with Server(SERVED) as server:
        yield server


@pytest.fixture
def holding() -> Iterator[Server]:
    """A server that holds every reply until `release`."""
    held = {CHAT: streamed(HOLD, content_event("Hello"), END), EMBED: (HOLD, *whole(EMBEDDED))}
    with Server({**SERVED, **held}) as server:
        yield server


# Rates


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the rates stands still, so that a slow machine does not reach the next minute."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


def reply_to(request: httpx.Request) -> httpx.Response:
    if request.method == "GET":
        return httpx.Response(200, json={"data": [{"id": "smol"}]})
    if request.url.path == EMBED:
        return httpx.Response(200, json=EMBEDDED)
    return httpx.Response(200, content=content_event("Hello") + END)


@pytest.mark.parametrize(("method", "most"), [("generate", 300), ("chat", 600)])
@pytest.mark.usefixtures("stopped_clock")
def test_default_rate_limits_chat_and_generate(monkeypatch: pytest.MonkeyPatch, method: str, most: int) -> None:
    monkeypatch.setenv("VLLM_LIMITS", "memory://")
    with ollama.Client(
        backend_mode="vllm", vllm_urls="vllm:8001", transport=httpx.MockTransport(reply_to), timeout=30
    ) as client:
        call = getattr(client, method)
        for _ in range(most):
            call("smol", **ARGUMENTS[method])
        with pytest.raises(ResponseError, match=rf"{most}/minute, VLLM_{method.upper()}_RATE") as caught:
            call("smol", **ARGUMENTS[method])
        assert caught.value.status_code == 429
        assert client.stats()["totals"]["errors"] == {"limited": 1}


@pytest.mark.usefixtures("stopped_clock")
def test_default_rate_limits_embed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LIMITS", "memory://")
    with ollama.Client(
        backend_mode="vllm", vllm_urls="vllm:8001", transport=httpx.MockTransport(reply_to), timeout=30
    ) as client:
        for _ in range(5990):  # counted without a request, which is quicker
            assert client._driver.rates.spend("embed") == 0.0
        for _ in range(10):
            client.embed("smol", "hi")
        with pytest.raises(ResponseError, match="6000/minute, VLLM_EMBED_RATE"):
            client.embed("smol", "hi")


def test_calls_are_unlimited_by_default() -> None:
    with ollama.Client(
        backend_mode="vllm", vllm_urls="vllm:8001", transport=httpx.MockTransport(reply_to), timeout=30
    ) as client:
        for _ in range(301):
            client.generate("smol", **ARGUMENTS["generate"])
        assert client.stats()["totals"]["errors"] == {}


def test_each_operation_has_its_own_rate(crowd: Callable[..., Crowd], server: Server) -> None:
    client = crowd(server.url, vllm_limits="memory://", vllm_chat_rate="2/hour", timeout=PATIENCE_S)
    client.call()
    client.call()
    with pytest.raises(
        ResponseError, match=r"^too many requests: chat waited .* \(2/hour, VLLM_CHAT_RATE; the rate allows the next"
    ):
        client.call()
    client.call("generate")
    client.call("embed")
    assert len(server.posts(CHAT)) == 3


def test_call_waits_for_its_rate_within_its_timeout(crowd: Callable[..., Crowd], server: Server) -> None:
    client = crowd(server.url, vllm_limits="memory://", vllm_chat_rate="1/second", timeout=PATIENCE_S)
    client.call()
    second = client.begin()
    until(lambda: client.counts == (1, 0) or second.done())
    assert second.result(PATIENCE_S).message.content == "Hello"
    assert client.counts == (0, 0)


@pytest.mark.parametrize("settings", [{}, {"timeout": None}])
def test_call_without_a_timeout_waits_for_its_rate(crowd: Callable[..., Crowd], server: Server, settings: Any) -> None:
    client = crowd(server.url, vllm_limits="memory://", vllm_chat_rate="1/second", vllm_max_concurrent=1, **settings)
    calls = [client.begin() for _ in range(2)]
    assert [call.result(PATIENCE_S).message.content for call in calls] == ["Hello"] * 2


# Slots


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"vllm_limits": "memory://"}, 10),
        ({"vllm_limits": "memory://", "vllm_max_concurrent": 3}, 3),
        ({"vllm_max_concurrent": 3}, 3),
    ],
)
def test_concurrent_calls_are_limited(crowd: Callable[..., Crowd], holding: Server, settings: Any, most: int) -> None:
    client = crowd(holding.url, **settings)
    calls = [client.begin(method) for method in ("chat", "generate", "embed", "chat", "embed") * 3]
    holding.until(lambda: holding.in_flight == most)
    until(lambda: client.counts == (15 - most, most))
    holding.release(15)
    for call in calls:
        call.result(PATIENCE_S)
    assert holding.most == most
    assert client.counts == (0, 0)
    assert client.client.stats()["totals"]["calls"] == 15


def test_waiting_calls_are_admitted_in_order(crowd: Callable[..., Crowd], holding: Server) -> None:
    client = crowd(holding.url, vllm_max_concurrent=1)
    calls = []
    for number in range(6):
        calls.append(client.chat(str(number)))
        holding.until(lambda: holding.in_flight == 1)
        until(lambda number=number: client.queued == number)  # type: ignore[misc]
    holding.release(6)
    for call in calls:
        call.result(PATIENCE_S)
    assert [request.content["messages"][-1]["content"] for request in holding.posts(CHAT)] == list("012345")


def test_catalog_and_health_calls_use_no_slot(crowd: Callable[..., Crowd], holding: Server) -> None:
    client = crowd(holding.url, vllm_limits="memory://", vllm_max_concurrent=1)
    call = client.begin()
    holding.until(lambda: holding.in_flight == 1)
    assert [model.model for model in client._begin(client.client.list).result(PATIENCE_S).models] == ["smol:latest"]
    assert client._begin(client.client.health).result(PATIENCE_S)["servers"][0]["in_flight"] == 1
    holding.release(1)
    call.result(PATIENCE_S)


# How long a call holds its slot


def begun(request: Received) -> Pieces:
    """Holds the second part of a stream whose text is "first"; replies to others at once."""
    return (
        streamed(content_event("Hel"), HOLD, content_event("lo"), END)
        if "first" in str(request.content)
        else SERVED[CHAT]
    )


@pytest.fixture
def one_slot(crowd: Callable[..., Crowd]) -> Iterator[tuple[Server, Crowd]]:
    """A client with one slot, and a server that holds the stream "first" until `release`."""
    with Server({**SERVED, CHAT: begun}) as server:
        yield server, crowd(server.url, vllm_max_concurrent=1, timeout=PATIENCE_S)


def first(client: Crowd) -> Any:
    """Returns a stream that holds the slot: its first part was read."""
    stream = client.call(messages=[{"role": "user", "content": "first"}], stream=True)
    assert client.next(stream).message.content == "Hel"
    return stream


def test_call_that_times_out_in_the_queue_leaves_it(crowd: Callable[..., Crowd]) -> None:
    with Server({**SERVED, CHAT: begun}) as server:
        client = crowd(server.url, vllm_max_concurrent=1, timeout=PATIENCE_S)
        stream = first(client)
        client.client._client.timeout = 0.3
        with pytest.raises(ResponseError, match=r"chat waited .* \(1 at once, VLLM_MAX_CONCURRENT\)") as caught:
            client.call()
        client.client._client.timeout = PATIENCE_S
        assert caught.value.status_code == 429
        assert (client.queued, client.counts) == (0, (0, 1))
        assert len(server.posts(CHAT)) == 1
        client.close(stream)
        assert client.call().message.content == "Hello"


def test_stream_holds_its_slot_until_it_is_read_to_its_end(one_slot: tuple[Server, Crowd]) -> None:
    server, client = one_slot
    stream = first(client)
    other = client.begin()
    until(lambda: client.queued == 1)
    assert client.counts == (1, 1)
    server.release(1)
    assert client.next(stream).message.content == "lo"
    assert client.queued == 1
    while client.next(stream) is not None:
        pass
    assert other.result(PATIENCE_S).message.content == "Hello"


def test_closed_stream_releases_its_slot(one_slot: tuple[Server, Crowd]) -> None:
    server, client = one_slot
    stream = first(client)
    other = client.begin()
    until(lambda: client.queued == 1)
    client.close(stream)
    assert other.result(PATIENCE_S).message.content == "Hello"
    server.until(lambda: server.disconnects == 1)
    assert client.counts == (0, 0)


def test_unread_stream_holds_no_slot(one_slot: tuple[Server, Crowd]) -> None:
    _, client = one_slot
    stream = client.call(stream=True)
    assert client.call().message.content == "Hello"
    client.close(stream)
    assert client.counts == (0, 0)


def test_call_that_times_out_releases_its_slot(crowd: Callable[..., Crowd], server: Server) -> None:
    client = crowd(server.url, vllm_max_concurrent=1, timeout=PATIENCE_S)
    client.call()  # the timeout applies to the next call only
    server.answers[CHAT] = (HOLD,)
    client.client._client.timeout = httpx.Timeout(PATIENCE_S, read=0.3)
    with pytest.raises(httpx.ReadTimeout):
        client.call()
    server.answers[CHAT] = SERVED[CHAT]
    client.client._client.timeout = PATIENCE_S
    assert client.call().message.content == "Hello"


def test_failed_call_releases_its_slot(crowd: Callable[..., Crowd], server: Server) -> None:
    server.answers[CHAT] = whole({"error": {"message": "wrong", "code": 400}}, "400 Bad Request")
    client = crowd(server.url, vllm_max_concurrent=1, timeout=PATIENCE_S)
    for _ in range(3):
        with pytest.raises(ResponseError, match="wrong"):
            client.call()
    assert client.counts == (0, 0)


# Cancellation


only_tasks = pytest.mark.parametrize("crowd", ["tasks"], indirect=True)


@only_tasks
def test_cancelled_call_releases_its_slot(crowd: Callable[..., Crowd], holding: Server) -> None:
    client = crowd(holding.url, vllm_max_concurrent=1, timeout=PATIENCE_S)
    call, other = client.begin(), client.begin()
    until(lambda: client.queued == 1)
    holding.until(lambda: holding.in_flight == 1)
    assert call.cancel()
    holding.until(lambda: holding.disconnects == 1)
    holding.release(2)
    assert other.result(PATIENCE_S).message.content == "Hello"
    assert client.client.stats()["totals"]["cancelled"] == 1


@only_tasks
@pytest.mark.parametrize(
    "settings", [{"vllm_max_concurrent": 1}, {"vllm_limits": "memory://", "vllm_chat_rate": "1/hour"}]
)
def test_cancelled_waiting_call_leaves_the_queue(crowd: Callable[..., Crowd], server: Server, settings: Any) -> None:
    server.answers[CHAT] = streamed(HOLD, content_event("Hello"), END)
    client = crowd(server.url, **settings)
    holds, waits = client.begin(), client.begin()
    until(lambda: client.counts == (1, 1))
    waits.cancel()
    with pytest.raises(CancelledError):
        waits.result(PATIENCE_S)
    until(lambda: client.counts == (0, 1))
    server.release(1)
    assert holds.result(PATIENCE_S).message.content == "Hello"
    assert len(server.posts(CHAT)) == 1
    assert client.counts == (0, 0)


@only_tasks
def test_next_call_proceeds_when_the_head_of_a_rate_queue_is_cancelled(
    crowd: Callable[..., Crowd], server: Server
) -> None:
    client = crowd(server.url, vllm_limits="memory://", vllm_chat_rate="1/second", timeout=PATIENCE_S)
    client.call()
    head, other = client.begin(), client.begin()
    until(lambda: client.counts[0] == 2 or head.done())
    head.cancel()
    assert other.result(PATIENCE_S).message.content == "Hello"
