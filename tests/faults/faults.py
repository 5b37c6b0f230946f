"""What can go wrong between a client and a server: each fault a frozen dataclass, all of them in the table `FAULTS`.

A fault says what it does at the stages of an exchange (`Stages`) and is silent on the others, so several may be put on
one request: a slow accept and then a reset. `proxy.py` brings a request to these stages. Bytes of a body are counted
without its chunked framing, from 0; events of a stream (server-sent events) are counted from 1.
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
"""The body of a reply as it comes, without its framing."""

ESCAPES = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x00\x08\r\nINFO: a line of its own \u202e\u2028"
"""Clears a terminal, names its window, colours it, opens a log line, turns the direction of the text round."""

_MIB = 1024 * 1024
_PIECE = 64 * 1024  # bytes written at once where a reply has no end


class Request(NamedTuple):
    """A request as the proxy received it; the names of the headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reset(Exception):
    """The connection to the client is to be reset (RST)."""


class Close(Exception):
    """The connection to the client is to be closed (FIN), wherever its reply stands."""


class Stages:
    """What a fault does at each stage of an exchange. By itself, nothing."""

    __slots__ = ()

    async def on_request(self) -> None:
        """A request has come; nothing of it has been passed on."""

    def instead(self, request: Request) -> Iterator[bytes] | None:
        """What is sent, framing and all, in place of the server's reply. The server is not asked."""
        return None

    async def before_reply(self) -> None:
        """The request has been passed on; nothing of the reply has been read."""

    def alter(self, pieces: Pieces) -> Pieces:
        """The body that the client gets of the one that came; the head has been passed on."""
        return pieces


# Of a connection


@dataclass(frozen=True, slots=True)
class Refuse(Stages):
    """Nobody listens, until the faults are cleared."""


@dataclass(frozen=True, slots=True)
class ResetOnAccept(Stages):
    """A connection is taken and reset unread. By chance the client is still connecting then, or writing, or reading."""


@dataclass(frozen=True, slots=True)
class StaleKeepAlive(Stages):
    """A connection that was kept alive closes as its next request arrives. A first request is none of its business."""

    async def on_request(self) -> None:
        raise Close


@dataclass(frozen=True, slots=True)
class SlowAccept(Stages):
    """A request is taken, and passed on only after a while."""

    seconds: float

    async def on_request(self) -> None:
        await asyncio.sleep(self.seconds)


# Before the reply


@dataclass(frozen=True, slots=True)
class ResetBeforeReply(Stages):
    """The server has the request; the client's connection is reset."""

    async def before_reply(self) -> None:
        raise Reset


@dataclass(frozen=True, slots=True)
class StallBeforeReply(Stages):
    """The server has the request; the client hears nothing."""

    async def before_reply(self) -> None:
        await asyncio.Event().wait()


# In the body of the reply. Where the body is shorter than the place that a fault names, it strikes at the end.


@dataclass(frozen=True, slots=True)
class ResetAt(Stages):
    """The connection is reset after that many bytes of the body; at 0, right after the head."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        raise Reset


@dataclass(frozen=True, slots=True)
class StallAt(Stages):
    """Nothing more comes after that many bytes of the body."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class TruncateAt(Stages):
    """The connection is closed cleanly after that many bytes, while its framing promises more."""

    byte: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in _first(self.byte, pieces):
            yield piece
        raise Close


@dataclass(frozen=True, slots=True)
class Drip(Stages):
    """The body comes a few bytes at a time."""

    size: int
    seconds: float

    async def alter(self, pieces: Pieces) -> Pieces:
        async for piece in pieces:
            for start in range(0, len(piece), self.size):
                yield piece[start : start + self.size]
                await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class CorruptByte(Stages):
    """One byte of the body is another; 0xff occurs nowhere in UTF-8."""

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


# In a stream of events. Another body has none, and passes unchanged.


@dataclass(frozen=True, slots=True)
class EndAfterEvent(Stages):
    """The stream ends after an event, with a proper end of its framing: no `finish_reason`, no `[DONE]`."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event
            if number == self.event:
                return


@dataclass(frozen=True, slots=True)
class DuplicateEvent(Stages):
    """An event comes twice."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event
            if number == self.event:
                yield event


@dataclass(frozen=True, slots=True)
class CorruptEvent(Stages):
    """The JSON of an event breaks off in its middle; the event itself ends as it should."""

    event: int

    async def alter(self, pieces: Pieces) -> Pieces:
        async for number, event in _events(pieces):
            yield event[: len(event) // 2] + b"\n\n" if number == self.event else event


# In place of the server's reply


@dataclass(frozen=True, slots=True)
class Status(Stages):
    """A reply with this status, whole and well formed. The connection is kept."""

    code: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def instead(self, request: Request) -> Iterator[bytes]:
        kind = (("Content-Type", self.content_type),) if self.body else ()
        yield _head(self.code, *kind, ("Content-Length", str(len(self.body))), *self.headers) + self.body


@dataclass(frozen=True, slots=True)
class EchoKey(Stages):
    """An error whose message holds the `Authorization` header of the request."""

    code: int = 401

    def instead(self, request: Request) -> Iterator[bytes] | None:
        message = f"Not accepted: Authorization: {request.headers.get('authorization', '')}"
        return Status(self.code, vllm_error(self.code, message)).instead(request)


@dataclass(frozen=True, slots=True)
class Redirect(Stages):
    """The client is sent to another host: scheme and host of the URL, the path stays."""

    to: str
    code: int = 307

    def instead(self, request: Request) -> Iterator[bytes] | None:
        return Status(self.code, headers=(("Location", self.to + request.path),)).instead(request)


@dataclass(frozen=True, slots=True)
class NotHttp(Stages):
    """Other bytes than an HTTP reply; then the connection closes."""

    data: bytes

    def instead(self, request: Request) -> Iterator[bytes]:
        yield self.data
        raise Close


@dataclass(frozen=True, slots=True)
class GzipBomb(Stages):
    """A compressed reply that is a thousand times longer than what is sent: JSON, of white space and `{}`."""

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
    """A stream whose first event has no end, as fast as the client takes it."""

    def instead(self, request: Request) -> Iterator[bytes]:
        yield _head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
        yield chunk(b'data: {"id": "')
        while True:
            yield chunk(b"x" * _PIECE)


@dataclass(frozen=True, slots=True)
class EndlessBody(Stages):
    """JSON without a length that has no end, as fast as the client takes it."""

    def instead(self, request: Request) -> Iterator[bytes]:
        yield _head(200, ("Content-Type", "application/json"), ("Connection", "close")) + b'{"id": "'
        while True:
            yield b"x" * _PIECE


@dataclass(frozen=True, slots=True)
class EndlessHints(Stages):
    """One informational reply after another, and never the reply itself."""

    def instead(self, request: Request) -> Iterator[bytes]:
        while True:
            yield _head(103, ("Link", "</style.css>; rel=preload"))


OfConnection: TypeAlias = Refuse | ResetOnAccept | StaleKeepAlive | SlowAccept
OfReply: TypeAlias = ResetBeforeReply | StallBeforeReply | ResetAt | StallAt | TruncateAt | Drip | CorruptByte
OfEvents: TypeAlias = EndAfterEvent | DuplicateEvent | CorruptEvent
InPlace: TypeAlias = Status | EchoKey | Redirect | NotHttp | GzipBomb | EndlessLine | EndlessBody | EndlessHints
Fault: TypeAlias = OfConnection | OfReply | OfEvents | InPlace


def vllm_error(code: int, message: str) -> bytes:
    """An error in the shape of vLLM's own (0.32, `ErrorResponse`)."""
    kind = HTTPStatus(code).phrase.replace(" ", "")
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def nginx_error(code: int) -> Status:
    """What a reverse proxy answers where the server behind it does not."""
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
    """The first `count` bytes of a body; at 0 the body is not even waited for."""
    while count > 0 and (piece := await anext(pieces, None)) is not None:
        yield piece[:count]
        count -= len(piece)


async def _events(pieces: Pieces) -> AsyncGenerator[tuple[int, bytes], None]:
    """The events of a body with their numbers, each with its blank line; as number 0 what no blank line ends."""
    number, buffered = 0, b""
    async for piece in pieces:
        *events, buffered = (buffered + piece).split(b"\n\n")
        for event in events:
            number += 1
            yield number, event + b"\n\n"
    yield 0, buffered


FAULTS: dict[str, tuple[Fault, str]] = {
    "refuse": (Refuse(), "connections are refused"),
    "reset-on-accept": (ResetOnAccept(), "a connection is reset as soon as it stands"),
    "stale-keep-alive": (StaleKeepAlive(), "a kept connection closes as its next request arrives"),
    "slow-accept": (SlowAccept(0.3), "a request lies for 0.3 s before it is passed on"),
    "reset-before-reply": (ResetBeforeReply(), "the connection is reset before any byte of the reply"),
    "reset-after-head": (ResetAt(0), "the connection is reset between the head of the reply and its body"),
    "reset-in-body": (ResetAt(1000), "the connection is reset in the middle of the body"),
    "stall-before-reply": (StallBeforeReply(), "the server has the request and never answers"),
    "stall-in-body": (StallAt(500), "the body stops coming, the connection stays"),
    "drip": (Drip(7, 0.001), "the body comes seven bytes at a time"),
    "truncate": (TruncateAt(1000), "the connection is closed cleanly in the middle of the body"),
    "end-after-event": (EndAfterEvent(2), "a stream ends properly, but without finish_reason and [DONE]"),
    "duplicate-event": (DuplicateEvent(2), "an event of a stream comes twice"),
    "corrupt-event": (CorruptEvent(2), "the JSON of an event is broken"),
    "corrupt-byte": (CorruptByte(40), "a byte of the body is not UTF-8"),
    "corrupt-head": (NotHttp(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"), "a header of the reply is not HTTP"),
    "other-protocol": (NotHttp(b"SSH-2.0-OpenSSH_9.6\r\n"), "something else than HTTP answers"),
    **{
        f"status-{code}{name}": (status, f"status {code}, {what}")
        for code in (500, 502, 503, 429)
        for name, status, what in (
            ("", Status(code, vllm_error(code, "The engine is dead.")), "an error in vLLM's shape"),
            ("-html", nginx_error(code), "a page of HTML"),
            ("-empty", Status(code), "no body"),
        )
    },
    "retry-after": (Status(429, headers=(("Retry-After", "1"),)), "status 429, to be asked again after a second"),
    "redirect": (Redirect("http://elsewhere.invalid"), "a redirect to another host"),
    "echo-key": (EchoKey(), "an error that holds the key of the request"),
    "escapes": (Status(500, vllm_error(500, ESCAPES)), "an error whose message steers a terminal"),
    "escapes-in-text": (Status(502, ESCAPES.encode(), "text/plain"), "an error in text that steers a terminal"),
    "gzip-bomb": (GzipBomb(512), "a compressed reply that inflates to 512 MiB"),
    "endless-line": (EndlessLine(), "a stream whose first line has no end"),
    "endless-body": (EndlessBody(), "a reply of JSON that has no end"),
}
"""Every fault under its name, as it is put on a server, with one line of description."""

OF_LEARNING: dict[str, tuple[Fault, str]] = {
    "endless-hints": (EndlessHints(), "one `103 Early Hints` after another, and no reply"),
}
"""Faults of the request that a client learns with what a server serves: httpx reads on from such a server for ever."""
