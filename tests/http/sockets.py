"""Real servers in threads. A mock transport cannot cut, delay, count or refuse connections.

    with serving({CHAT: b"HTTP/1.1 200 OK..."}) as url:       # bytes as they are, one request on a connection
    with Server({CHAT: streamed(content_event("Hel"), HOLD, END)}) as server:
        server.until(lambda: server.in_flight == 1)
        server.release(1)                                          # the held reply continues

A `Server` supports HTTP/1.1, keeps connections open, and records what its clients do. It writes answers in pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

PATIENCE_S = 60.0
"""Seconds that a test waits for an event before it fails: generous, because machines may be slow."""


@contextlib.contextmanager
def serving(answers: Mapping[str, bytes | None]) -> Iterator[str]:
    """A server that sends the bytes of a path as they are and closes the connection; None: no reply.

    Yields its URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as connections:
        thread = threading.Thread(target=_accept, args=(listener, answers, connections))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, answers: Mapping[str, bytes | None], connections: contextlib.ExitStack) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # shut down
            return
        connections.callback(connection.close)
        answer = answers.get(_path(connection), b"")
        if answer is not None:
            connection.sendall(answer)
            connection.close()


def _path(connection: socket.socket) -> str:
    """Reads a request to its end and returns its path; "" if the connection carries none."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    lines = head.decode().splitlines() or ["no request"]
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return lines[0].split()[1]


@contextlib.contextmanager
def unreachable_url() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def http(body: bytes, status: str = "200 OK", *, chunked: bool = False) -> bytes:
    """A reply on the wire; `chunked` leaves out the last chunk, as a server does that dies."""
    if chunked:
        return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


# A server that keeps its connections


@dataclass(frozen=True)
class Received:
    """A request that the server received. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """The number of its connection, from 1."""

    @property
    def content(self) -> Any:
        """The JSON of the body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Pause:
    """The server sends nothing for some seconds."""

    seconds: float


class Hold:
    """The server sends nothing until `Server.release`."""


HOLD = Hold()

Piece = bytes | Pause | Hold
Pieces = Iterable[Piece]
Answer = Pieces | Callable[[Received], Pieces]
"""The bytes of a reply, or a function that returns them for a request."""


def whole(body: bytes | dict[str, Any], status: str = "200 OK", **headers: str) -> tuple[bytes]:
    """A reply that keeps the connection open. A dict is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *_lines(headers)]
    return ("\r\n".join(lines).encode() + b"\r\n\r\n" + content,)


def streamed(*pieces: Piece) -> tuple[Piece, ...]:
    """A stream of events in these pieces that keeps the connection open."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) if isinstance(piece, bytes) else piece for piece in pieces)
    return (head, *chunks, b"0\r\n\r\n")


def serves(*names: str) -> tuple[bytes]:
    """The reply of `GET /v1/models`."""
    return whole({"object": "list", "data": [{"id": name, "created": 1, "max_model_len": 2048} for name in names]})


def _lines(headers: Mapping[str, str]) -> list[str]:
    return [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]


class Server:
    """A server that replies with `answers`, by path; any other path returns 404.

    The attributes count what happened so far; `until` waits for a condition on them.
    """

    def __init__(self, answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers = dict(answers)
        self.connections = 0
        """Accepted connections."""
        self.open = 0
        """Connections that the client has not closed yet."""
        self.requests: list[Received] = []
        self.in_flight = 0
        """POST requests whose reply is not complete."""
        self.most = 0
        """The highest value of `in_flight`."""
        self.disconnects = 0
        """Replies whose client disconnected before their end."""
        self.url = ""
        self._tls = tls
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def release(self, count: int) -> None:
        """Releases the next `count` holds, present or future, in order."""
        for _ in range(count):
            self._loop.call_soon_threadsafe(self._gate.release)

    def until(self, happened: Callable[[], bool]) -> None:
        """Waits until `happened` returns true; calls it after each change."""
        with self._changed:
            assert self._changed.wait_for(happened, PATIENCE_S), f"{vars(self)}"

    def posts(self, path: str) -> list[Received]:
        """The POST requests of a path, in order of arrival."""
        return [request for request in self.requests if request.path == path and request.method == "POST"]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._gate = asyncio.Semaphore(0)
        self._tasks: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls, backlog=2048)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._count(connections=1, open=1)
        try:
            await self._conversation(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client disconnected, or the test is over
        finally:
            self._tasks.discard(task)
            self._count(open=-1)
            writer.transport.abort()

    async def _conversation(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves the requests of a connection in turn. No byte after a request: the client disconnected."""
        number = self.connections
        first = await reader.read(1)
        while first:
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = head[0].split(" ")
            request = Received(method, path, headers, body, number)
            after = asyncio.ensure_future(reader.read(1))
            try:
                if not await self._answered(request, writer, after):
                    return
                first = await after
            finally:
                after.cancel()

    async def _answered(self, request: Received, writer: asyncio.StreamWriter, after: asyncio.Future[bytes]) -> bool:
        """Sends a reply; returns False if the client disconnected before its end."""
        self.requests.append(request)
        count = int(request.method == "POST")
        self._count(in_flight=count)
        sending = asyncio.ensure_future(self._send(request, writer))
        try:
            await asyncio.wait({sending, after}, return_when=asyncio.FIRST_COMPLETED)
            whole = sending.done() and not isinstance(sending.exception(), OSError)
            if whole:
                sending.result()
            else:
                self._count(disconnects=1)
            return whole
        finally:
            sending.cancel()
            self._count(in_flight=-count)

    async def _send(self, request: Received, writer: asyncio.StreamWriter) -> None:
        answer = self.answers.get(request.path, whole({"detail": "Not Found"}, "404 Not Found"))
        for piece in answer(request) if callable(answer) else answer:
            if isinstance(piece, Pause):
                await asyncio.sleep(piece.seconds)
            elif isinstance(piece, Hold):
                await self._gate.acquire()
            else:
                writer.write(piece)
                await writer.drain()

    def _count(self, *, connections: int = 0, open: int = 0, in_flight: int = 0, disconnects: int = 0) -> None:
        with self._changed:
            self.connections += connections
            self.open += open
            self.in_flight += in_flight
            self.most = max(self.most, self.in_flight)
            self.disconnects += disconnects
            self._changed.notify_all()
