"""Tests of `FaultProxy` with a fake vLLM: what it forwards, and what an httpx client receives under each fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.polling import eventually

from . import faults
from .fake_server import CHAT, DOCUMENT, DYING, EMBED, EVENTS, LARGE, PATIENCE_S, STREAM, WAITING, FakeServer
from .faults import ESCAPES, FAULTS, Drip, Refuse, ResetAt, Status
from .leaks import Leaks
from .proxy import FaultProxy

STALLED_S = 0.3
"""Read timeout of a client whose server stalls."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.proceed.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=PATIENCE_S) as client:
        yield client


def chat(client: httpx.Client, timeout: float = PATIENCE_S) -> httpx.Response:
    return client.post(CHAT, json={"model": "smol"}, headers={"Authorization": "Bearer sesame"}, timeout=timeout)


def until_error(client: httpx.Client, path: str = CHAT, timeout: float = PATIENCE_S) -> tuple[bytes, Exception | None]:
    """The bytes of a body before an error, and the error."""
    body = b""
    try:
        with client.stream("POST", path, timeout=timeout) as response:
            for piece in response.iter_raw():
                body += piece
    except httpx.HTTPError as error:
        return body, error
    return body, None


# --- Without faults


@pytest.mark.parametrize("path", [CHAT, EMBED, DYING])
def test_proxy_forwards_every_byte_of_a_reply(server: FakeServer, proxy: FaultProxy, path: str) -> None:
    def reply(url: str) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nhost: any\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            expected, got = len(reply(server.url)) if url == proxy.url else -1, b""
            while len(got) != expected and (data := connection.recv(65536)):
                got += data
            return got

    assert reply(proxy.url) == reply(server.url)


def test_proxy_forwards_every_byte_of_a_request(server: FakeServer, proxy: FaultProxy) -> None:
    sent = (
        b"POST /v1/embeddings?a=%20b HTTP/1.1\r\nHost: any\r\nX-Odd:   one \r\nx-odd: two\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\n{  \r\n1\r\n}\r\n0\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":")[-1]))) as connection:
        connection.sendall(sent[:90])  # in two pieces
        connection.sendall(sent[90:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert server.received == [sent]


def test_proxy_records_requests(client: httpx.Client, proxy: FaultProxy) -> None:
    chat(client)
    (request,) = proxy.requests
    assert (request.method, request.path) == ("POST", CHAT)
    assert (request.headers["authorization"], json.loads(request.body)) == ("Bearer sesame", {"model": "smol"})


def test_proxy_forwards_an_event_before_the_next_one_arrives(
    server: FakeServer, client: httpx.Client, proxy: FaultProxy
) -> None:
    with client.stream("POST", WAITING) as response:
        pieces = response.iter_raw()
        assert next(pieces) == EVENTS[0]
        server.proceed.set()
        assert b"".join(pieces) == EVENTS[1]
    assert proxy.abandoned == 0


def test_proxy_keeps_a_connection_for_the_next_request(client: httpx.Client, proxy: FaultProxy) -> None:
    assert [chat(client).content, client.post(EMBED).content, chat(client).content] == [STREAM, DOCUMENT, STREAM]
    assert (proxy.connections, proxy.open_connections) == (1, 1)


def test_proxy_disconnects_from_the_server_when_the_client_disconnects(
    server: FakeServer, client: httpx.Client, proxy: FaultProxy
) -> None:
    with client.stream("POST", WAITING) as response:
        next(response.iter_raw())
    proxy.wait_idle()  # the server still has an event to send
    server.proceed.set()
    assert server.disconnected.wait(PATIENCE_S)
    assert proxy.abandoned == 1


def test_wait_idle_error_names_the_open_connections(client: httpx.Client, proxy: FaultProxy) -> None:
    chat(client)
    assert proxy.wait_until(lambda: proxy.open_upstream == 0)
    with pytest.raises(TimeoutError, match=f"1 connections of clients and 0 to {proxy.upstream_url}"):
        proxy.wait_idle(0.01)
    client.close()
    proxy.wait_idle()


def test_client_is_disconnected_when_the_server_disconnects(client: httpx.Client) -> None:
    body, error = until_error(client, DYING)
    assert (body, type(error)) == (EVENTS[0], httpx.RemoteProtocolError)


def test_client_is_reset_when_the_server_is_unreachable(server: FakeServer, client: httpx.Client) -> None:
    server.server_close()
    with pytest.raises(httpx.ReadError):
        chat(client)


def test_proxy_forwards_200_concurrent_streams(server: FakeServer, proxy: FaultProxy) -> None:
    async def stream(client: httpx.AsyncClient, begun: asyncio.Semaphore) -> bytes:
        async with client.stream("POST", WAITING) as response:
            pieces = response.aiter_raw()
            first = await anext(pieces)
            begun.release()
            return first + b"".join([piece async for piece in pieces])

    async def all_streams() -> list[bytes]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=proxy.url, trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
            begun = asyncio.Semaphore(0)
            streams = [asyncio.create_task(stream(client, begun)) for _ in range(200)]
            for _ in streams:
                await begun.acquire()
            assert (proxy.open_connections, proxy.open_upstream) == (200, 200)
            server.proceed.set()
            return await asyncio.gather(*streams)

    assert asyncio.run(all_streams()) == [EVENTS[0] + EVENTS[1]] * 200
    proxy.wait_idle()
    assert (proxy.connections, proxy.abandoned) == (200, 0)


def test_proxy_leaves_nothing_behind(server: FakeServer) -> None:
    with Leaks(), FaultProxy(server.url) as proxy, httpx.Client(base_url=proxy.url, trust_env=False) as client:
        chat(client)
        proxy.inject(faults.StallAt(0))
        with contextlib.suppress(httpx.TimeoutException):
            chat(client, timeout=STALLED_S)


@pytest.mark.parametrize("refuses", [False, True])
def test_proxy_closes_connections_that_arrive_while_it_stops_listening(server: FakeServer, refuses: bool) -> None:
    for _ in range(10):  # some of the connections are in the backlog then, some are being accepted
        with Leaks(), contextlib.ExitStack() as connections, FaultProxy(server.url) as proxy:
            for _ in range(3):
                connections.enter_context(socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":")[-1]))))
            if refuses:
                proxy.inject(Refuse())


# --- Which requests get a fault


def test_faults_apply_to_requests_below_a_path(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(Status(503), on=CHAT)
    assert [chat(client).status_code, client.post(EMBED).status_code] == [503, 200]


@pytest.mark.parametrize(("on", "statuses"), [("/", [200, 200]), ("/v1/models", [503, 200]), ("/health", [200, 503])])
def test_faults_skip_discovery_and_health_requests_unless_named(
    client: httpx.Client, proxy: FaultProxy, on: str, statuses: list[int]
) -> None:
    proxy.inject(Status(503), on=on)
    assert [client.get(path).status_code for path in ("/v1/models", "/health")] == statuses


def test_injections_apply_in_order_until_used_up(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(Status(503), times=2)
    proxy.inject(Status(429), times=1)
    assert [chat(client).status_code for _ in range(4)] == [503, 503, 429, 200]


def test_times_is_exact_for_concurrent_requests(proxy: FaultProxy) -> None:
    async def statuses() -> list[int]:
        async with httpx.AsyncClient(base_url=proxy.url, trust_env=False, timeout=PATIENCE_S) as client:
            replies = await asyncio.gather(*(client.post(CHAT) for _ in range(100)))
        return sorted(reply.status_code for reply in replies)

    proxy.inject(Status(503), times=30)
    assert asyncio.run(statuses()) == [200] * 70 + [503] * 30


def test_clear_removes_faults(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(Status(503))
    assert chat(client).status_code == 503
    proxy.clear()
    assert chat(client).content == STREAM


def test_faults_of_different_stages_combine(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(Drip(7, 0), faults.DuplicateEvent(1), ResetAt(2 * len(EVENTS[0]) + 3))
    body, error = until_error(client)
    assert (body, type(error)) == (EVENTS[0] * 2 + b"dat", httpx.ReadError)


@pytest.mark.parametrize(("given", "times"), [((Refuse(),), 1), ((Refuse(), Status(503)), None)])
def test_inject_rejects_impossible_combinations(
    proxy: FaultProxy, given: tuple[faults.Fault, ...], times: int | None
) -> None:
    with pytest.raises(ValueError, match="Refuse"):
        proxy.inject(*given, times=times)


# --- What a client receives

RAISES: dict[str, type[Exception] | tuple[type[Exception], ...]] = {
    "refuse": httpx.ConnectError,
    "reset-on-accept": (httpx.NetworkError, httpx.RemoteProtocolError),  # depends on how far the client is
    "reset-before-reply": httpx.ReadError,
    "reset-after-head": httpx.ReadError,
    "reset-in-body": httpx.ReadError,
    "stall-before-reply": httpx.ReadTimeout,
    "stall-in-body": httpx.ReadTimeout,
    "truncate": httpx.RemoteProtocolError,
    "corrupt-head": httpx.RemoteProtocolError,
    "other-protocol": httpx.RemoteProtocolError,
}

ANSWERS: dict[str, Callable[[httpx.Response], bool]] = {
    "slow-accept": lambda reply: reply.content == STREAM,
    "drip": lambda reply: reply.content == STREAM,
    "end-after-event": lambda reply: reply.content == EVENTS[0] + EVENTS[1],
    "duplicate-event": lambda reply: reply.content == b"".join([EVENTS[0], EVENTS[1], *EVENTS[1:]]),
    "corrupt-event": lambda reply: (
        reply.content == STREAM.replace(EVENTS[1], EVENTS[1][: len(EVENTS[1]) // 2] + b"\n\n")
    ),
    "corrupt-byte": lambda reply: reply.content == STREAM[:40] + b"\xff" + STREAM[41:],
    **{f"status-{code}": lambda reply: "dead" in reply.json()["error"]["message"] for code in (500, 502, 503, 429)},
    **{f"status-{code}-html": lambda reply: reply.text.startswith("<html>") for code in (500, 502, 503, 429)},
    **{f"status-{code}-empty": lambda reply: reply.content == b"" for code in (500, 502, 503, 429)},
    "retry-after": lambda reply: (reply.status_code, reply.headers["retry-after"]) == (429, "1"),
    "redirect": lambda reply: reply.next_request is not None and reply.next_request.url.host == "other-host.invalid",
    "echo-key": lambda reply: "Bearer sesame" in reply.json()["error"]["message"],
    "escapes": lambda reply: reply.json()["error"]["message"] == ESCAPES,
    "escapes-in-text": lambda reply: reply.text == ESCAPES,
}

SEPARATE = {"stale-keep-alive", "gzip-bomb", "endless-line", "endless-body"}


def test_every_fault_has_a_description_of_one_line_and_a_test() -> None:
    assert FAULTS.keys() == RAISES.keys() | ANSWERS.keys() | SEPARATE
    descriptions = [description for _, description in FAULTS.values()]
    assert len(set(descriptions)) == len(FAULTS)
    assert all(description and "\n" not in description for description in descriptions)


@pytest.mark.parametrize("name", RAISES)
def test_fault_raises_an_error_of_httpx(client: httpx.Client, proxy: FaultProxy, name: str) -> None:
    proxy.inject(FAULTS[name][0])
    with pytest.raises(RAISES[name]):
        chat(client, timeout=STALLED_S if "stall" in name else PATIENCE_S)
    proxy.clear()
    assert chat(client).content == STREAM


@pytest.mark.parametrize("name", ANSWERS)
def test_fault_returns_a_reply(client: httpx.Client, proxy: FaultProxy, name: str) -> None:
    proxy.inject(FAULTS[name][0])
    reply = chat(client)
    assert ANSWERS[name](reply)
    if name.startswith("status-"):
        assert reply.status_code == int(name.split("-")[1])


@pytest.mark.parametrize("at", [0, 1, 500, len(EVENTS[0])])
@pytest.mark.parametrize(("path", "body"), [(CHAT, STREAM), (EMBED, DOCUMENT)])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.ResetAt, httpx.ReadError),
        (faults.StallAt, httpx.ReadTimeout),
        (faults.TruncateAt, httpx.RemoteProtocolError),
    ],
)
def test_all_bytes_before_a_fault_arrive(
    client: httpx.Client, proxy: FaultProxy, path: str, body: bytes, fault: type, error: type, at: int
) -> None:
    proxy.inject(fault(at))
    expected = (body[:at], error)
    timeouts = [PATIENCE_S]
    if fault is faults.StallAt:
        timeouts = [STALLED_S, 3, 30]  # a slow machine may not deliver the bytes within the first of them
    for timeout in timeouts:
        received, raised = until_error(client, path, timeout=timeout)
        if (received, type(raised)) == expected:
            break
    assert (received, type(raised)) == expected


@pytest.mark.parametrize("fault", [faults.ResetAt, faults.TruncateAt])
def test_all_bytes_before_a_fault_arrive_at_a_slow_client(proxy: FaultProxy, fault: type) -> None:
    proxy.inject(fault(9_000_000))
    small_buffer = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)])
    with httpx.Client(base_url=proxy.url, transport=small_buffer) as client:
        body, error = until_error(client, LARGE)
    assert len(body) == 9_000_000
    assert error is not None


def test_refuse_also_closes_kept_alive_connections(client: httpx.Client, proxy: FaultProxy) -> None:
    chat(client)
    proxy.inject(Refuse())
    for _ in range(2):
        with pytest.raises(httpx.ConnectError, match="Connection refused"):
            chat(client)
    proxy.clear()
    assert chat(client).content == STREAM  # on the same port


def test_stale_keep_alive_closes_at_the_second_request(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(faults.StaleKeepAlive(), times=1)
    assert chat(client).content == STREAM  # the first of its connection
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        chat(client)
    assert chat(client).content == STREAM
    assert proxy.connections == 2


def test_stalled_request_stays_at_the_server_until_the_client_disconnects(
    server: FakeServer, proxy: FaultProxy
) -> None:
    proxy.inject(faults.StallBeforeReply())
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":")[-1]))) as connection:
        connection.sendall(f"POST {WAITING} HTTP/1.1\r\nhost: any\r\ncontent-length: 0\r\n\r\n".encode())
        assert eventually(lambda: server.received)
        assert (proxy.open_connections, proxy.open_upstream) == (1, 1)
    proxy.wait_idle()
    server.proceed.set()
    assert server.disconnected.wait(PATIENCE_S)
    assert proxy.abandoned == 1


def test_gzip_bomb_inflates_half_a_megabyte_to_512(client: httpx.Client, proxy: FaultProxy) -> None:
    proxy.inject(FAULTS["gzip-bomb"][0])
    with client.stream("POST", CHAT) as response:
        inflated = sum(len(piece) for piece in response.iter_bytes())
    assert inflated == 512 * 1024 * 1024 + 2
    assert response.num_bytes_downloaded < 600_000


@pytest.mark.parametrize("name", ["endless-line", "endless-body"])
def test_endless_reply_lasts_until_the_client_disconnects(client: httpx.Client, proxy: FaultProxy, name: str) -> None:
    proxy.inject(FAULTS[name][0], on=CHAT)
    size = 0
    with client.stream("POST", CHAT) as response:
        for piece in response.iter_raw():
            assert b"\n" not in piece
            size += len(piece)
            if size > 20_000_000:
                break
    assert client.post(EMBED).content == DOCUMENT  # other requests are served meanwhile
    client.close()
    proxy.wait_idle()
    assert proxy.abandoned == 1
