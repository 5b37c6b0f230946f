"""A proxy that stands between a client and a real server and does to their exchanges what `faults.py` describes.

    with FaultProxy("http://127.0.0.1:8001") as proxy:
        proxy.inject(ResetAt(100), times=1)
        ...                                     # the client asks proxy.url
        proxy.wait_idle()

It runs in a thread of its own, and its methods may be called from any other. Without a fault, each byte of either side
goes to the other as soon as it comes. h11 only reads along, to know where a message ends. Each request is passed on
over a connection of its own, which is closed with the reply, or at once where the client goes away: vLLM then aborts.
A reply that a fault is on keeps its head and its body, but its chunks may be others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import h11

from .faults import Close, Fault, Pieces, Refuse, Request, Reset, ResetOnAccept, StaleKeepAlive, chunk

T = TypeVar("T")

SPARED = ("/v1/models", "/health")
"""What a client asks to learn about a server: no fault concerns a GET of these unless its `on` names them."""
_READ = 64 * 1024  # bytes
_BACKLOG = 1024
_LINGER_NOT = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


class FaultProxy:
    """A server on a free port of 127.0.0.1 that passes everything on to `upstream_url`, save where faults are on."""

    def __init__(self, upstream_url: str) -> None:
        """`upstream_url`: `http://host:port`."""
        self.upstream_url = upstream_url
        self.requests: list[Request] = []
        """The requests so far, each once it has come whole."""
        self.connections = 0
        """How many connections clients have made so far."""
        self.abandoned = 0
        """How many requests lost their client before their reply had ended."""
        self.open_upstream = 0
        """How many requests are with the server now."""
        self._rules: list[_Rule] = []
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        # A socket that is bound and does not listen keeps the port while connections are refused.
        self._port_holder = _bound(0)
        self._port: int = self._port_holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._thread.start()
        self._listener: asyncio.Server | None = None
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._port_holder.close()

    # What a test does

    def inject(self, *faults: Fault, on: str = "/v1/", times: int | None = None) -> None:
        """Put faults on the requests whose path starts with `on`: on all of them, or on the next `times`.

        Of several injections the oldest that is not used up takes a request. `Refuse` and `ResetOnAccept` are of
        connections, hence of all paths; the connections that are idle are closed, so that the next request makes one.
        """
        of_connections = any(isinstance(fault, Refuse | ResetOnAccept) for fault in faults)
        if of_connections and len(faults) > 1:
            raise ValueError("Refuse and ResetOnAccept each stand alone: what else could happen to the request?")
        if times is not None and Refuse() in faults:
            raise ValueError("Refuse lasts until clear(): who is refused can't be counted, so leave `times` out")
        self._call(self._add(_Rule(faults, on, times, of_connections)))

    def clear(self) -> None:
        """Behave again. What has been begun under a fault goes on under it."""
        self._call(self._behave())

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now, idle ones too."""
        return len(self._clients)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait (at most `timeout` seconds) for what is counted here to fulfil a condition; whether it does.

        Blocks: in a coroutine, `await asyncio.to_thread(proxy.wait_until, …)`.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def wait_idle(self, timeout: float = 5.0) -> None:
        """Wait until no connection is open, of a client or to the server, or raise `TimeoutError` after `timeout` s."""
        if not self.wait_until(lambda: not self._clients and not self.open_upstream, timeout):
            raise TimeoutError(
                f"after {timeout:g} s there are still {self.open_connections} connections of clients "
                f"and {self.open_upstream} to {self.upstream_url}"
            )

    # The thread of the proxy

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=_bound(self._port), backlog=_BACKLOG)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _close(self) -> None:
        self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in list(self._clients):  # of a task that had not begun
            await client.close()

    async def _add(self, rule: _Rule) -> None:
        self._rules.append(rule)
        if Refuse() in rule.faults:
            self._refuse()
        if rule.of_connections:
            for client in [client for client in self._clients if client.idle]:
                await client.close()

    async def _behave(self) -> None:
        self._rules.clear()
        await self._listen()

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        self._clients.add(client)
        self.connections += 1
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._note()

    async def _serve(self, client: _Client) -> None:
        """Answer the requests of a connection, one after the other."""
        try:
            if any(rule.take() for rule in self._rules if ResetOnAccept() in rule.faults):
                raise Reset
            kept = True
            while kept and (received := await client.receive()) is not None:
                self.requests.append(received.request)
                self._note()
                kept = await self._exchange(client, received, self._faults(received))
        except _Gone:
            self.abandoned += 1
        except (Reset, OSError):  # OSError: the server's connection could not be made, or was reset
            client.reset()
        except (Close, EOFError, h11.RemoteProtocolError):  # the latter two: one of both sides broke off
            pass
        finally:
            await client.close()
            self._clients.discard(client)
            self._note()

    def _faults(self, received: _Received) -> tuple[Fault, ...]:
        return next((rule.faults for rule in self._rules if rule.concerns(received) and rule.take()), ())

    async def _exchange(self, client: _Client, received: _Received, faults: tuple[Fault, ...]) -> bool:
        """Answer a request; whether the connection may be kept. The server's is closed first, whatever happens."""
        async with contextlib.AsyncExitStack() as upstream:
            return await client.staying(self._answer(client, received, faults, upstream))

    async def _answer(
        self, client: _Client, received: _Received, faults: tuple[Fault, ...], upstream: contextlib.AsyncExitStack
    ) -> bool:
        for fault in faults:
            await fault.on_request()
        for fault in faults:
            if (reply := fault.instead(received.request)) is not None:
                for piece in reply:
                    await client.write(piece)
                    await asyncio.sleep(0)  # a client that takes everything at once must not starve the others
                return True
        reader, writer = await upstream.enter_async_context(self._upstream())
        writer.write(received.raw)
        await writer.drain()
        for fault in faults:
            await fault.before_reply()
        return await _relay(client, reader, received.request.method, faults)

    @contextlib.asynccontextmanager
    async def _upstream(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        parts = urlsplit(self.upstream_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        self.open_upstream += 1
        self._note()
        try:
            yield reader, writer
        finally:
            await _closed(writer)
            self.open_upstream -= 1
            self._note()


@dataclass
class _Rule:
    """One injection."""

    faults: tuple[Fault, ...]
    on: str
    left: int | None
    of_connections: bool

    def concerns(self, received: _Received) -> bool:
        request = received.request
        if self.of_connections or not request.path.startswith(self.on):
            return False
        if StaleKeepAlive() in self.faults and received.number == 1:
            return False
        return request.method != "GET" or not request.path.startswith(SPARED) or self.on.startswith(SPARED)

    def take(self) -> bool:
        """Whether it is not used up; it is used once more."""
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0


class _Gone(Exception):
    """The client went away while its request was being answered."""


@dataclass(frozen=True, slots=True)
class _Received:
    """A request, the bytes that it was, and the how-manieth of its connection it is."""

    request: Request
    raw: bytes
    number: int


class _Client:
    """A connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._early = b""  # what came of the next request while one was being answered
        self._received = 0
        self.idle = True
        # What is written is with the kernel once `write` returns, so a reset cuts off nothing that went before it.
        writer.transport.set_write_buffer_limits(high=0)

    async def receive(self) -> _Received | None:
        """The next request, None where the client leaves without one."""
        self.idle = not self._early
        follower = h11.Connection(h11.SERVER)
        raw, body, head = b"", b"", None
        while not isinstance(event := follower.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                data = self._early or await self._reader.read(_READ)
                if not data:
                    return None
                self._early, self.idle = b"", False
                raw += data
                follower.receive_data(data)
        assert head is not None
        self._early = follower.trailing_data[0]
        self._received += 1
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = Request(head.method.decode(), head.target.decode("latin-1"), headers, body)
        return _Received(request, raw[: len(raw) - len(self._early)], self._received)

    async def staying(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something while the client is there; it is cancelled the moment the client leaves."""
        working, leaving = asyncio.create_task(work), asyncio.create_task(self._left())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _Gone
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _left(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_READ):
                self._early += data

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise _Gone from error

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)

    async def close(self) -> None:
        await _closed(self._writer)


async def _relay(client: _Client, reader: asyncio.StreamReader, method: str, faults: tuple[Fault, ...]) -> bool:
    """Pass a reply on; whether the client's connection may be kept."""
    follower = h11.Connection(h11.CLIENT)
    follower.send(h11.Request(method=method, target="/", headers=[("host", "upstream")]))
    follower.send(h11.EndOfMessage())
    head = await reader.readuntil(b"\r\n\r\n")
    follower.receive_data(head)
    response = follower.next_event()
    assert isinstance(response, h11.Response), response
    await client.write(head)
    body = _body(reader, follower)
    if not faults:
        async for raw, _ in body:
            await client.write(raw)
        return follower.their_state is h11.DONE
    chunked = any(name == b"transfer-encoding" for name, _ in response.headers)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(body.aclose)
        pieces: Pieces = _payload(body)
        for fault in faults:
            stack.push_async_callback(pieces.aclose)
            pieces = fault.alter(pieces)
        stack.push_async_callback(pieces.aclose)
        async for piece in pieces:
            if piece:
                await client.write(chunk(piece) if chunked else piece)
    if chunked:
        await client.write(chunk(b""))
    return chunked or follower.their_state is h11.DONE


async def _body(reader: asyncio.StreamReader, follower: h11.Connection) -> AsyncGenerator[tuple[bytes, bytes], None]:
    """The pieces of a body as they come: the bytes on the wire, and what they hold of the body itself."""
    data = b""  # a reply may be over with its head
    while True:
        held = b""
        while isinstance(event := follower.next_event(), h11.Data):
            held += event.data
        yield data, held
        if isinstance(event, h11.EndOfMessage):
            return
        data = await reader.read(_READ)
        follower.receive_data(data)


async def _payload(body: AsyncGenerator[tuple[bytes, bytes], None]) -> Pieces:
    async for _, held in body:
        if held:
            yield held


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once: what is not written yet is dropped."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
