"""The connections of the proxy: reading a client's requests, and forwarding the server's replies.

Bytes are forwarded unchanged; h11 only parses them to find the end of a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import h11

from .faults import Fault, Pieces, Request, chunk

T = TypeVar("T")

_READ = 64 * 1024  # bytes
_NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0: closing sends RST
_NO_BYTES = struct.pack("i", 0)  # result of TIOCOUTQ (tcp(7)) if the peer has acknowledged everything
_POLL_S = 0.001


class Gone(Exception):
    """The client disconnected before the end of the reply."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request, its bytes, and its number on the connection (from 1)."""

    request: Request
    raw: bytes
    number: int


class Client:
    """A connection of a client."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._opened = False
        self._early = b""  # bytes of the next request that arrived during an exchange
        self._received = 0
        self.idle = False

    async def open(self) -> None:
        """Start reading."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        # `write` returns when the kernel has the data, so closing loses nothing.
        self._writer.transport.set_write_buffer_limits(high=0)
        self._opened = True

    async def receive(self) -> Received | None:
        """The next request, or None if the client disconnects."""
        self.idle = not self._early
        parser = h11.Connection(h11.SERVER)
        raw, body, head = bytearray(), bytearray(), None
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
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
                parser.receive_data(data)
        assert head is not None
        self._early = parser.trailing_data[0]
        self._received += 1
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body))
        return Received(request, bytes(raw[: len(raw) - len(self._early)]), self._received)

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`. When the client disconnects, cancel it and raise `Gone`."""
        task, disconnection = asyncio.create_task(work), asyncio.create_task(self._disconnection())
        try:
            await asyncio.wait({task, disconnection}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            return task.result()
        finally:
            task.cancel()
            disconnection.cancel()
            await asyncio.gather(task, disconnection, return_exceptions=True)

    async def _disconnection(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_READ):
                self._early += data

    async def write(self, data: bytes) -> None:
        """Send all of this, or raise `Gone`."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Gone from error

    async def reset(self) -> None:
        """Make `close` reset the connection. Waits until the client has received the written data, which RST drops."""
        with contextlib.suppress(OSError, ValueError):  # closed already
            while fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, _NO_BYTES) != _NO_BYTES:
                await asyncio.sleep(_POLL_S)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    async def close(self) -> None:
        """Close the connection at once: with RST after `reset`, otherwise with FIN."""
        if self._opened:
            await closed(self._writer)
        else:
            self._socket.close()


async def relay(client: Client, reader: asyncio.StreamReader, method: str, faults: tuple[Fault, ...]) -> bool:
    """Forward a reply. Returns whether the client's connection can be kept."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "upstream")]))
    parser.send(h11.EndOfMessage())
    head = await reader.readuntil(b"\r\n\r\n")
    parser.receive_data(head)
    response = parser.next_event()
    assert isinstance(response, h11.Response), response
    await client.write(head)
    body = _body(reader, parser)
    if not faults:
        async for raw, _ in body:
            await client.write(raw)
        return parser.their_state is h11.DONE
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
    return chunked or parser.their_state is h11.DONE


async def _body(reader: asyncio.StreamReader, parser: h11.Connection) -> AsyncGenerator[tuple[bytes, bytes], None]:
    """The pieces of a body as they arrive: the bytes on the wire, and the part of the body that they contain."""
    data = b""  # a reply may have no body
    while True:
        content = b""
        while isinstance(event := parser.next_event(), h11.Data):
            content += event.data
        yield data, content
        if isinstance(event, h11.EndOfMessage):
            return
        data = await reader.read(_READ)
        parser.receive_data(data)


async def _payload(body: AsyncGenerator[tuple[bytes, bytes], None]) -> Pieces:
    async for _, content in body:
        if content:
            yield content


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once and drop unwritten data."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def bound(port: int) -> socket.socket:
    """A socket that is bound to a port of 127.0.0.1 (0: any free port) and does not listen."""
    holder = socket.socket(proto=socket.IPPROTO_TCP)  # without `proto`, asyncio does not turn off Nagle's algorithm
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return holder
