"""Abort of a request whose time limit has passed.

httpx limits the time of each read, not the time of a whole reply: a server that sends its headers one byte at a time,
or one `103 Early Hints` after another, keeps a read alive without end. A task can be cancelled, but a thread in a read
cannot. If its connection is shut down, the read ends, and httpx closes the rest.

httpcore (1.0) has no public way from a request to its connection, so `abort` searches the connection pool. Without a
known pool (the user passed `transport=`), the thread ends when the server ends the reply or the read times out.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import httpx


class AbortHandle:
    """Access to the connection of one request."""

    def __init__(self) -> None:
        """Create a handle without a request."""
        self.connected = False
        """Whether the connection is established."""
        self._aborted = False
        self._request: httpx.Request | None = None
        self._pool: object = None

    def attach(self, request: httpx.Request, client: httpx.Client | httpx.AsyncClient) -> None:
        """Attach the handle to `request`, which `client` is about to send."""
        self._request = request
        if isinstance(client, httpx.Client):
            self._pool = getattr(client._transport_for_url(request.url), "_pool", None)
            request.extensions["trace"] = self._trace
        else:
            request.extensions["trace"] = self._async_trace

    def abort(self) -> None:
        """Shut the connection down, or prevent the request from being sent. Any thread may call this."""
        self._aborted = True
        for pooled in tuple(getattr(self._pool, "_requests", ())):
            if self._request is not None and pooled.request.extensions is self._request.extensions:
                _shut_down(pooled.connection)

    def _trace(self, stage: str, _: Mapping[str, Any]) -> None:
        if stage.endswith(".send_request_headers.started"):
            self.connected = True
            if self._aborted:
                raise httpx.ReadTimeout("the time limit passed before the request was sent")

    async def _async_trace(self, stage: str, info: Mapping[str, Any]) -> None:
        self._trace(stage, info)


def _shut_down(connection: object) -> None:
    while (inner := getattr(connection, "_connection", None)) is not None:
        connection = inner
    stream = getattr(connection, "_network_stream", None)
    sock = None if stream is None else stream.get_extra_info("socket")
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):  # it may be closed already
            # The method of the plain socket: that of a TLS socket would disturb the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
