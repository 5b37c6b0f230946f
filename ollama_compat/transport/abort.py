"""Hangs up on a request whose time is up.

httpx times each read of a reply and not their sum: a server that sends its headers one byte at a time, or one
`103 Early Hints` after another, is read from for ever. A task can be cancelled; a thread that waits in a read can't,
but when its connection is shut down the read ends, and httpx closes what is left.

Which connection a request has, httpcore (1.0) tells nobody: it is looked up in its pool. Where that is not to be found
(a `transport` of the user's own), the thread ends when the server does, or at the next silence.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import httpx


class AbortHandle:
    """The connection of one request."""

    def __init__(self) -> None:
        """Nothing is sent yet."""
        self.stands = False
        """Whether there is a connection."""
        self._over = False
        self._request: httpx.Request | None = None
        self._pool: object = None

    def carries(self, request: httpx.Request, client: httpx.Client | httpx.AsyncClient) -> None:
        """`request` is about to be sent by `client`."""
        self._request = request
        if isinstance(client, httpx.Client):
            self._pool = getattr(client._transport_for_url(request.url), "_pool", None)
            request.extensions["trace"] = self._heard
        else:
            request.extensions["trace"] = self._async_heard

    def abort(self) -> None:
        """Shut the connection down, or keep the request from being sent. Another thread may send it."""
        self._over = True
        for waiting in tuple(getattr(self._pool, "_requests", ())):
            if self._request is not None and waiting.request.extensions is self._request.extensions:
                _shut_down(waiting.connection)

    def _heard(self, stage: str, _: Mapping[str, Any]) -> None:
        if stage.endswith(".send_request_headers.started"):
            self.stands = True
            if self._over:
                raise httpx.ReadTimeout("its time was up before it was sent")

    async def _async_heard(self, stage: str, facts: Mapping[str, Any]) -> None:
        self._heard(stage, facts)


def _shut_down(connection: object) -> None:
    while (inner := getattr(connection, "_connection", None)) is not None:
        connection = inner
    stream = getattr(connection, "_network_stream", None)
    line = None if stream is None else stream.get_extra_info("socket")
    if isinstance(line, socket.socket):
        with contextlib.suppress(OSError):  # closed meanwhile
            socket.socket.shutdown(line, socket.SHUT_RDWR)  # not TLS's own, which a thread that reads must not meet
