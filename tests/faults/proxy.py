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
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import h11

from .faults import Close, Fault, Refuse, Request, Reset, ResetOnAccept, StaleKeepAlive
from .wire import Client, Gone, Received, bound, closed, relay

T = TypeVar("T")

SPARED = ("/v1/models", "/health")
"""What a client asks to learn about a server: no fault concerns a GET of these unless its `on` names them."""
_BACKLOG = 1024


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
        self._clients: set[Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        # A socket that is bound and does not listen keeps the port while connections are refused.
        self._port_holder = bound(0)
        self._port: int = self._port_holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._thread.start()
        self._listener: socket.socket | None = None
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
        if self._failures and kind is None:
            raise BaseExceptionGroup("the fault proxy itself failed", self._failures)

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
            self._listener = bound(self._port)
            self._listener.listen(_BACKLOG)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
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

    def _accept(self, listener: socket.socket) -> None:
        """Take one connection. asyncio's own server loses one that comes while it is being closed."""
        try:
            connection, _ = listener.accept()
        except OSError:  # gone before it was taken
            return
        client = Client(connection)
        self._clients.add(client)
        self.connections += 1
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._served)
        self._note()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)

    async def _serve(self, client: Client) -> None:
        """Answer the requests of a connection, one after the other."""
        try:
            if any(rule.take() for rule in self._rules if ResetOnAccept() in rule.faults):
                raise Reset
            await client.open()
            kept = True
            while kept and (received := await client.receive()) is not None:
                self.requests.append(received.request)
                self._note()
                kept = await self._exchange(client, received, self._faults(received))
        except Gone:
            self.abandoned += 1
        except (Reset, OSError):  # OSError: the server's connection could not be made, or was reset
            await client.reset()
        except (Close, EOFError, h11.RemoteProtocolError):  # the latter two: one of both sides broke off
            pass
        finally:
            try:
                await client.close()
            finally:  # the proxy may be closing too, which cancels the wait
                self._clients.discard(client)
                self._note()

    def _faults(self, received: Received) -> tuple[Fault, ...]:
        return next((rule.faults for rule in self._rules if rule.concerns(received) and rule.take()), ())

    async def _exchange(self, client: Client, received: Received, faults: tuple[Fault, ...]) -> bool:
        """Answer a request; whether the connection may be kept. The server's is closed first, whatever happens."""
        async with contextlib.AsyncExitStack() as upstream:
            return await client.staying(self._answer(client, received, faults, upstream))

    async def _answer(
        self, client: Client, received: Received, faults: tuple[Fault, ...], upstream: contextlib.AsyncExitStack
    ) -> bool:
        for fault in faults:
            await fault.on_request()
        for fault in faults:
            if (reply := fault.instead(received.request)) is not None:
                for piece in reply:
                    await client.write(piece)
                    await asyncio.sleep(0)  # a client that takes everything at once must not starve the others
                client.idle = True
                return True
        reader, writer = await upstream.enter_async_context(self._upstream())
        writer.write(received.raw)
        await writer.drain()
        for fault in faults:
            await fault.before_reply()
        kept = await relay(client, reader, received.request.method, faults)
        client.idle = True  # from the last byte on, though the server's connection is yet to be closed
        return kept

    @contextlib.asynccontextmanager
    async def _upstream(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        parts = urlsplit(self.upstream_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        self.open_upstream += 1
        self._note()
        try:
            yield reader, writer
        finally:
            try:
                await closed(writer)
            finally:
                self.open_upstream -= 1
                self._note()


@dataclass
class _Rule:
    """One injection."""

    faults: tuple[Fault, ...]
    on: str
    left: int | None
    of_connections: bool

    def concerns(self, received: Received) -> bool:
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
