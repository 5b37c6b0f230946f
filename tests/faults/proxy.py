"""A proxy between a client and a real server that injects the faults of `faults.py`.

    with FaultProxy("http://127.0.0.1:8001") as proxy:
        proxy.inject(ResetAt(100), times=1)
        ...                                     # the client sends to proxy.url
        proxy.wait_idle()

The proxy runs in its own thread; its methods may be called from any thread. Without a fault it forwards every byte at
once; h11 only parses the bytes to find the end of a message. Each request is forwarded over a new connection, which is
closed after the reply, or as soon as the client disconnects, so that vLLM aborts. A fault changes a reply's chunk
boundaries, but otherwise only what it describes.
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
"""The discovery and health requests of a client. Faults skip a GET of these unless their `on` names them."""
_BACKLOG = 1024
_TIMEOUT_S = 60.0


class FaultProxy:
    """A server on a free port of 127.0.0.1 that forwards everything to `upstream_url`, with the injected faults."""

    def __init__(self, upstream_url: str) -> None:
        """`upstream_url`: `http://host:port`."""
        self.upstream_url = upstream_url
        self.requests: list[Request] = []
        """The complete requests so far."""
        self.connections = 0
        """Number of connections that clients have made so far."""
        self.abandoned = 0
        """Number of requests whose client disconnected before the end of the reply."""
        self.open_upstream = 0
        """Number of open connections to the server."""
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

    # Methods for tests
    def inject(self, *faults: Fault, on: str = "/v1/", times: int | None = None) -> None:
        """Inject faults into all requests whose path starts with `on`, or into the next `times` of them.

        A request gets the faults of the oldest injection that is not used up. `Refuse` and `ResetOnAccept` concern
        connections, so they ignore paths; idle connections are closed, so that the next request opens a new one.
        """
        of_connections = any(isinstance(fault, Refuse | ResetOnAccept) for fault in faults)
        if of_connections and len(faults) > 1:
            raise ValueError("Refuse and ResetOnAccept cannot be combined with other faults")
        if times is not None and Refuse() in faults:
            raise ValueError("Refuse lasts until clear() and cannot count connections, so omit `times`")
        self._call(self._add(_Rule(faults, on, times, of_connections)))

    def clear(self) -> None:
        """Remove all faults. Exchanges that have begun keep theirs."""
        self._call(self._clear())

    @property
    def open_connections(self) -> int:
        """Number of open connections of clients, including idle ones."""
        return len(self._clients)

    def wait_until(self, condition: Callable[[], bool], timeout: float = _TIMEOUT_S) -> bool:
        """Wait at most `timeout` seconds until a condition on the counters is true. Returns whether it is true.

        Blocks; in a coroutine use `await asyncio.to_thread(proxy.wait_until, …)`.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def wait_idle(self, timeout: float = _TIMEOUT_S) -> None:
        """Wait until no connection of a client or to the server is open. Raises `TimeoutError` after `timeout` s."""
        if not self.wait_until(lambda: not self._clients and not self.open_upstream, timeout):
            raise TimeoutError(
                f"after {timeout:g} s there are still {self.open_connections} connections of clients "
                f"and {self.open_upstream} to {self.upstream_url}"
            )

    # In the proxy's thread
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
        for client in list(self._clients):  # those whose task had not begun
            await client.close()

    async def _add(self, rule: _Rule) -> None:
        self._rules.append(rule)
        if Refuse() in rule.faults:
            self._refuse()
        if rule.of_connections:
            for client in [client for client in self._clients if client.idle]:
                await client.close()

    async def _clear(self) -> None:
        self._rules.clear()
        await self._listen()

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection. asyncio's own server loses a connection that arrives while the server closes."""
        try:
            connection, _ = listener.accept()
        except OSError:  # closed before it was accepted
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
        """Answer the requests of a connection one after another."""
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
        except (Reset, OSError):  # OSError: the server refused or reset the connection
            await client.reset()
        except (Close, EOFError, h11.RemoteProtocolError):  # the latter two: one side disconnected
            pass
        finally:
            try:
                await client.close()
            finally:  # the proxy may be closing too, which cancels close()
                self._clients.discard(client)
                self._note()

    def _faults(self, received: Received) -> tuple[Fault, ...]:
        return next((rule.faults for rule in self._rules if rule.concerns(received) and rule.take()), ())

    async def _exchange(self, client: Client, received: Received, faults: tuple[Fault, ...]) -> bool:
        """Answer a request. Returns whether the connection can be kept. Always closes the server's connection."""
        async with contextlib.AsyncExitStack() as upstream:
            return await client.while_connected(self._answer(client, received, faults, upstream))

    async def _answer(
        self, client: Client, received: Received, faults: tuple[Fault, ...], upstream: contextlib.AsyncExitStack
    ) -> bool:
        for fault in faults:
            await fault.on_request()
        for fault in faults:
            if (reply := fault.instead(received.request)) is not None:
                for piece in reply:
                    await client.write(piece)
                    await asyncio.sleep(0)  # a fast client must not starve the others
                client.idle = True
                return True
        reader, writer = await upstream.enter_async_context(self._upstream())
        writer.write(received.raw)
        await writer.drain()
        for fault in faults:
            await fault.before_reply()
        kept = await relay(client, reader, received.request.method, faults)
        client.idle = True  # although the server's connection is still open
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
        """Use the injection once. Returns False if it is used up."""
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0
