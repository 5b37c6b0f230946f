"""The connections of the proxy: what a client sends, and how a reply of the server is passed on to it.

Bytes go on as they are; h11 only reads along, to know where a message ends.
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
_LINGER_NOT = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST
_NO_BYTES = struct.pack("i", 0)  # what TIOCOUTQ (tcp(7)) tells where the other side has acknowledged everything
_POLL_S = 0.001


class Gone(Exception):
    """The client went away while its request was being answered."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request, the bytes that it was, and the how-manieth of its connection it is."""

    request: Request
    raw: bytes
    number: int


class Client:
    """A connection of a client."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._opened = False
        self._early = b""  # what came of the next request while one was being answered
        self._received = 0
        self.idle = False

    async def open(self) -> None:
        """Begin to read."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        # What is written is with the kernel once `write` returns, so closing cuts off nothing that went before it.
        self._writer.transport.set_write_buffer_limits(high=0)
        self._opened = True

    async def receive(self) -> Received | None:
        """The next request, None where the client leaves without one."""
        self.idle = not self._early
        follower = h11.Connection(h11.SERVER)
        raw, body, head = bytearray(), bytearray(), None
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
        request = Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body))
        return Received(request, bytes(raw[: len(raw) - len(self._early)]), self._received)

    async def staying(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something while the client is there; it is cancelled the moment the client leaves."""
        working, leaving = asyncio.create_task(work), asyncio.create_task(self._left())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Gone
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
        """Send all of this, or raise `Gone`."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Gone from error

    async def reset(self) -> None:
        """Have the closing of the connection reset it, once the client has what was written: a reset drops the rest."""
        with contextlib.suppress(OSError, ValueError):  # closed already
            while fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, _NO_BYTES) != _NO_BYTES:
                await asyncio.sleep(_POLL_S)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)

    async def close(self) -> None:
        """Close the connection at once, with RST after `reset`, else with FIN."""
        if self._opened:
            await closed(self._writer)
        else:
            self._socket.close()


async def relay(client: Client, reader: asyncio.StreamReader, method: str, faults: tuple[Fault, ...]) -> bool:
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


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once: what is not written yet is dropped."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def bound(port: int) -> socket.socket:
    """A socket that has a port of 127.0.0.1 (0: any that is free) and does not listen yet."""
    holder = socket.socket(proto=socket.IPPROTO_TCP)  # said, or asyncio does not switch off Nagle's delay
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return holder
