"""The faults that `proxy.py` can inject between a client and a server. `FAULTS` is the table of all of them.

Each fault is a frozen dataclass that overrides some stages of an exchange (`Stages`), so one request can have several
faults, for example a slow accept and then a reset. Offsets in a body count from 0 and ignore chunked framing; events of
a stream (server-sent events) count from 1.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, TypeAlias

Pieces: TypeAlias = AsyncGenerator[bytes, None]
"""The body of a reply as it arrives, without its framing."""

ESCAPES = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x00\x08\r\nINFO: a line of its own \u202e\u2028"
"""Clears a terminal, sets its title, changes its colour, starts a new log line, reverses the text direction."""

_MIB = 1024 * 1024
_PIECE = 64 * 1024  # bytes per write of an endless reply


class Request(NamedTuple):
    """A request as the proxy received it. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reset(Exception):
    """Reset the connection to the client (RST)."""


class Close(Exception):
    """Close the connection to the client (FIN), even in the middle of a reply."""


class Stages:
    """The stages of an exchange at which a fault can act. The defaults do nothing."""

    __slots__ = ()

    async def on_request(self) -> None:
        """The request has arrived; nothing of it has been forwarded."""

    def instead(self, request: Request) -> Iterator[bytes] | None:
        """The bytes to send, with framing, in place of the server's reply. The server does not receive the request."""
        return None

    async def before_reply(self) -> None:
        """The request has been forwarded; nothing of the reply has been read."""

    def alter(self, pieces: Pieces) -> Pieces:
        """The body that the client receives, made from the server's body. The head has been forwarded."""
        return pieces


# Faults of a connection
@dataclass(frozen=True, slots=True)
class Refuse(Stages):
    """The port does not listen until the faults are cleared."""


@dataclass(frozen=True, slots=True)
class ResetOnAccept(Stages):
    """A connection is accepted and reset. The client may be connecting, writing or reading at that moment."""


@dataclass(frozen=True, slots=True)
class StaleKeepAlive(Stages):
    """A kept-alive connection closes when its next request arrives. The first request of a connection is unaffected."""

    async def on_request(self) -> None:
        raise Close


@dataclass(frozen=True, slots=True)
class SlowAccept(Stages):
    """A request is forwarded after a delay (seconds)."""

    seconds: float

    async def on_request(self) -> None:
        await asyncio.sleep(self.seconds)


# Faults before the reply
@dataclass(frozen=True, slots=True)
class ResetBeforeReply(Stages):
    """The server receives the request, then the client's connection is reset."""

    async def before_reply(self) -> None:
        raise Reset


@dataclass(frozen=True, slots=True)
class StallBeforeReply(Stages):
    """The server receives the request; the client receives nothing."""

    async def before_reply(self) -> None:
        await asyncio.Event().wait()


# Faults in the body of the reply. If the body is shorter than the offset of a fault, the fault acts at its end.


@dataclass(frozen=True, slots=True)
class ResetAt(Stages):
    """The connection is reset after this many bytes of the body; at 0, right after the head."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        raise Reset


@dataclass(frozen=True, slots=True)
class StallAt(Stages):
    """Nothing more is sent after this many bytes of the body."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class TruncateAt(Stages):
    """The connection is closed cleanly after this many bytes, although the framing announces more."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        raise Close


@dataclass(frozen=True, slots=True)
class Drip(Stages):
    """The body is sent a few bytes at a time, with a pause (seconds) after each."""

    size: int
    seconds: float

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in pieces:
            for start in range(0, len(piece), self.size):
                yield piece[start : start + self.size]
                await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class CorruptByte(Stages):
    """One byte of the body is replaced. 0xff is invalid in UTF-8."""

    byte: int
    value: int = 0xFF

    async def alter(self, pieces: Pieces) -> Pieces:
        start = 0
        async for piece in pieces:
            changed = bytearray(piece)
            if 0 <= self.byte - start < len(piece):
                changed[self.byte - start] = self.value
            start += len(piece)
            yield bytes(changed)


# Faults in a stream of events. Other bodies pass unchanged.


@dataclass(frozen=True, slots=True)
class EndAfterEvent(Stages):
    """The stream ends after an event with correct framing, but without `finish_reason` and `[DONE]`."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event
            if number == self.event:
                return


@dataclass(frozen=True, slots=True)
class DuplicateEvent(Stages):
    """An event is sent twice."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event
            if number == self.event:
                yield event


@dataclass(frozen=True, slots=True)
class CorruptEvent(Stages):
    """The JSON of an event is cut in half; the event itself ends correctly."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event[: len(event) // 2] + b"\n\n" if number == self.event else event


# Replies in place of the server's reply
@dataclass(frozen=True, slots=True)
class Status(Stages):
    """A complete, well-formed reply with this status. The connection is kept alive."""

    code: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def instead(self, request: Request) -> Iterator[bytes]:
        kind = (("Content-Type", self.content_type),) if self.body else ()
        yield _head(self.code, *kind, ("Content-Length", str(len(self.body))), *self.headers) + self.body


@dataclass(frozen=True, slots=True)
class EchoKey(Stages):
    """An error whose message contains the `Authorization` header of the request."""

    code: int = 401

    def instead(self, request: Request) -> Iterator[bytes] | None:
        message = f"Not accepted: Authorization: {request.headers.get('authorization', '')}"
        return Status(self.code, vllm_error(self.code, message)).instead(request)


@dataclass(frozen=True, slots=True)
class Redirect(Stages):
    """A redirect to another host. `to`: scheme and host of the URL; the path is kept."""

    to: str
    code: int = 307

    def instead(self, request: Request) -> Iterator[bytes] | None:
        return Status(self.code, headers=(("Location", self.to + request.path),)).instead(request)


@dataclass(frozen=True, slots=True)
class NotHttp(Stages):
    """Bytes that are no HTTP reply; then the connection closes."""

    data: bytes

    def instead(self, request: Request) -> Iterator[bytes]:
        yield self.data
        raise Close


@dataclass(frozen=True, slots=True)
class GzipBomb(Stages):
    """A compressed reply that inflates to a thousand times its size: JSON of white space and `{}`."""

    mebibytes: int
    content_type: str = "application/json"

    def instead(self, request: Request) -> Iterator[bytes]:
        kind = ("Content-Type", self.content_type)
        yield _head(200, kind, ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked"))
        packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: with the head and tail of gzip
        for _ in range(self.mebibytes):
            if packed := packer.compress(b" " * _MIB):
                yield chunk(packed)
        yield chunk(packer.compress(b"{}") + packer.flush()) + chunk(b"")


@dataclass(frozen=True, slots=True)
class EndlessLine(Stages):
    """A stream whose first event never ends, as fast as the client reads it."""

    def instead(self, request: Request) -> Iterator[bytes]:
        yield _head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
        yield chunk(b'data: {"id": "')
        while True:
            yield chunk(b"x" * _PIECE)


@dataclass(frozen=True, slots=True)
class EndlessBody(Stages):
    """JSON without a length that never ends, as fast as the client reads it."""

    def instead(self, request: Request) -> Iterator[bytes]:
        yield _head(200, ("Content-Type", "application/json"), ("Connection", "close")) + b'{"id": "'
        while True:
            yield b"x" * _PIECE


@dataclass(frozen=True, slots=True)
class EndlessHints(Stages):
    """Informational replies without end, and never the reply itself."""

    def instead(self, request: Request) -> Iterator[bytes]:
        while True:
            yield _head(103, ("Link", "</style.css>; rel=preload"))


ConnectionFault: TypeAlias = Refuse | ResetOnAccept | StaleKeepAlive | SlowAccept
BodyFault: TypeAlias = ResetBeforeReply | StallBeforeReply | ResetAt | StallAt | TruncateAt | Drip | CorruptByte
EventFault: TypeAlias = EndAfterEvent | DuplicateEvent | CorruptEvent
ReplacedReply: TypeAlias = Status | EchoKey | Redirect | NotHttp | GzipBomb | EndlessLine | EndlessBody | EndlessHints
Fault: TypeAlias = ConnectionFault | BodyFault | EventFault | ReplacedReply


def vllm_error(code: int, message: str) -> bytes:
    """An error in vLLM's format (0.32, `ErrorResponse`)."""
    kind = HTTPStatus(code).phrase.replace(" ", "")
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def nginx_error(code: int) -> Status:
    """The reply of a reverse proxy whose upstream server does not answer."""
    title = f"{code} {HTTPStatus(code).phrase}"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><hr>nginx</body></html>\r\n"
    return Status(code, page.encode(), "text/html")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, 7.1); an empty one ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _head(code: int, *headers: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


async def _first(count: int, pieces: Pieces) -> Pieces:
    """The first `count` bytes of a body. With 0 it does not wait for the body."""
    while count > 0 and (piece := await anext(pieces, None)) is not None:
        yield piece[:count]
        count -= len(piece)


async def _events(pieces: Pieces) -> AsyncGenerator[tuple[int, bytes], None]:
    """The numbered events of a body, each with its blank line. Number 0 is the rest without a blank line."""
    number, buffered = 0, b""
    async for piece in pieces:
        *events, buffered = (buffered + piece).split(b"\n\n")
        for event in events:
            number += 1
            yield number, event + b"\n\n"
    yield 0, buffered


FAULTS: dict[str, tuple[Fault, str]] = {
    "refuse": (Refuse(), "connections are refused"),
    "reset-on-accept": (ResetOnAccept(), "a connection is reset as soon as it is accepted"),
    "stale-keep-alive": (StaleKeepAlive(), "a kept-alive connection closes when its next request arrives"),
    "slow-accept": (SlowAccept(0.3), "a request is forwarded after 0.3 s"),
    "reset-before-reply": (ResetBeforeReply(), "the connection is reset before any byte of the reply"),
    "reset-after-head": (ResetAt(0), "the connection is reset between the head and the body of the reply"),
    "reset-in-body": (ResetAt(1000), "the connection is reset in the middle of the body"),
    "stall-before-reply": (StallBeforeReply(), "the server receives the request and never replies"),
    "stall-in-body": (StallAt(500), "the body stops, the connection stays open"),
    "drip": (Drip(7, 0.001), "the body arrives seven bytes at a time"),
    "truncate": (TruncateAt(1000), "the connection is closed cleanly in the middle of the body"),
    "end-after-event": (EndAfterEvent(2), "a stream ends with correct framing, but without finish_reason and [DONE]"),
    "duplicate-event": (DuplicateEvent(2), "an event of a stream is sent twice"),
    "corrupt-event": (CorruptEvent(2), "the JSON of an event is broken"),
    "corrupt-byte": (CorruptByte(40), "a byte of the body is invalid in UTF-8"),
    "corrupt-head": (NotHttp(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"), "a header line of the reply is malformed"),
    "other-protocol": (NotHttp(b"SSH-2.0-OpenSSH_9.6\r\n"), "the reply uses another protocol than HTTP"),
    **{
        f"status-{code}{name}": (status, f"status {code}, {what}")
        for code in (500, 502, 503, 429)
        for name, status, what in (
            ("", Status(code, vllm_error(code, "The engine is dead.")), "an error in vLLM's format"),
            ("-html", nginx_error(code), "an HTML page"),
            ("-empty", Status(code), "no body"),
        )
    },
    "retry-after": (Status(429, headers=(("Retry-After", "1"),)), "status 429 with `Retry-After: 1`"),
    "redirect": (Redirect("http://other-host.invalid"), "a redirect to another host"),
    "echo-key": (EchoKey(), "an error that contains the API key of the request"),
    "escapes": (Status(500, vllm_error(500, ESCAPES)), "an error whose message contains terminal control sequences"),
    "escapes-in-text": (
        Status(502, ESCAPES.encode(), "text/plain"),
        "an error in plain text with terminal control sequences",
    ),
    "gzip-bomb": (GzipBomb(512), "a compressed reply that inflates to 512 MiB"),
    "endless-line": (EndlessLine(), "a stream whose first line never ends"),
    "endless-body": (EndlessBody(), "a JSON reply that never ends"),
}
"""Every fault by its name, with a description of one line."""

DISCOVERY_FAULTS: dict[str, tuple[Fault, str]] = {
    "endless-hints": (EndlessHints(), "`103 Early Hints` without end, and no reply"),
}
"""Faults only of the discovery request (`GET /v1/models`): httpx would read from such a server for ever."""
