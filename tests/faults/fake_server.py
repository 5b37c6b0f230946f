"""A small fake of vLLM: `REPLIES` has the bytes of each path's reply, `FakeServer.received` the requests."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator

from .faults import chunk

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
LARGE, WAITING, DYING = "/v1/large", "/v1/waiting", "/v1/dying"
EVENTS = [b'data: {"number": %d, "text": "%s"}\n\n' % (number, "파리 ".encode() * 30) for number in range(5)]
STREAM = b"".join(EVENTS)
DOCUMENT = json.dumps({"data": "x" * 1000}).encode()
SSE_HEAD = b"HTTP/1.1 200 OK\r\nserver: tiny\r\nContent-TYPE:  text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(DOCUMENT)
REPLIES = {
    # Chunks with an extension, upper-case lengths with leading zeros, and a trailer, which are all valid.
    CHAT: SSE_HEAD + b"".join(b"%04X;x=y\r\n%s\r\n" % (len(event), event) for event in EVENTS) + b"0\r\nA: b\r\n\r\n",
    DYING: SSE_HEAD + chunk(EVENTS[0]),
    LARGE: SSE_HEAD + chunk(b"x" * 50_000) * 200 + chunk(b""),
}
"""The reply to each path. `WAITING` sends one event, waits, and sends another; other paths reply with `DOCUMENT`."""


PATIENCE_S = 60.0
"""Longest wait for the test or the client, in seconds. It is reached only if a test fails."""


class FakeServer(socketserver.ThreadingTCPServer):
    """Serves one exchange on each connection."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.received: list[bytes] = []
        self.proceed = threading.Event()
        """Set by a test: `WAITING` sends its second event."""
        self.disconnected = threading.Event()
        """Set when the client of `WAITING` has disconnected."""


class Handler(socketserver.StreamRequestHandler):
    server: FakeServer

    def handle(self) -> None:
        raw = b"".join(self._request())
        self.server.received.append(raw)
        path = raw.split(b" ")[1].decode()
        if path != WAITING:
            self.wfile.write(REPLIES.get(path, JSON_HEAD + DOCUMENT))
            return
        self.wfile.write(SSE_HEAD + chunk(EVENTS[0]))
        self.server.proceed.wait(PATIENCE_S)
        with contextlib.suppress(OSError):
            self.wfile.write(chunk(EVENTS[1]) + chunk(b""))
        self.connection.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            if self.rfile.read(1):
                return
        self.server.disconnected.set()

    def _request(self) -> Iterator[bytes]:
        length, chunked = 0, False
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            yield line
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
            chunked = chunked or name == b"transfer-encoding"
        yield line
        yield self.rfile.read(length)
        while chunked:
            line = self.rfile.readline()
            yield line + self.rfile.read(int(line, 16) + 2)
            chunked = line != b"0\r\n"
