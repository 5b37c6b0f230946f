"""Requests and replies: what both drivers do with them, without I/O.

The httpx client is the one that the official package makes from the user's keywords, so `timeout`, `verify`,
`transport`, `headers`, `cookies` and the others keep their meaning. The key of OLLAMA_API_KEY is never sent to vLLM,
and a provider receives its own key and nothing else that the user gave. What a server can do to the client is bounded:
redirects are not followed, compressed replies are refused, and the length of a reply is limited.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx
import msgspec
from httpx._client import UseClientDefault

from ..mapping.errors import malformed_reply, redirected
from ..settings import OLLAMA
from ..steps import MODELS_PATH, Reply, Request
from .credentials import Credentials
from .errors import CONNECT_TIMEOUT_S
from .sse import EventDecoder, LineDecoder

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The longest reply that is kept in memory (bytes)."""
MAX_ERROR_BYTES = 1024 * 1024
"""The longest error reply that is read (bytes)."""


class Exchange:
    """Builds the requests of one client and checks the replies."""

    def __init__(self, client: httpx.Client | httpx.AsyncClient, credentials: Credentials) -> None:
        """`client`: the user's; `credentials`: the key for each kind of server."""
        self.credentials = credentials
        self._client = client

    def build(self, request: Request) -> httpx.Request:
        """The HTTP request."""
        content = None if request.payload is None else msgspec.json.encode(request.payload)
        timeout = self._timeout() if request.timeout is None else httpx.Timeout(request.timeout)
        if self.credentials.is_provider(request.credential):  # receives nothing that the client sends elsewhere
            headers = {
                "content-type": "application/json",
                "accept-encoding": "identity",
                **self.credentials.headers(request.credential),
            }
            extensions = {"timeout": timeout.as_dict()}
            return httpx.Request(request.method, request.url, headers=headers, content=content, extensions=extensions)
        built = self._client.build_request(request.method, request.url, content=content, timeout=timeout)
        built.headers["accept-encoding"] = "identity"
        if request.credential != OLLAMA:
            built.headers.pop("authorization", None)
            built.headers.update(self.credentials.headers(request.credential))
        return built

    def auth(self, request: Request) -> httpx.Auth | UseClientDefault:
        """The `auth` of a request: a server's own key replaces the client's `auth`, which no provider receives."""
        credential = request.credential
        if self.credentials.is_provider(credential) or (credential != OLLAMA and self.credentials.headers(credential)):
            return httpx.Auth()
        return httpx.USE_CLIENT_DEFAULT

    def check(self, response: httpx.Response, request: Request) -> None:
        """Refuse a redirect, which could carry the prompt anywhere, and compression, which could fill the memory."""
        if response.has_redirect_location:
            raise redirected(request.url, response.headers["location"])
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise malformed_reply(request.base, f"it is compressed ({encoding}), which the request does not allow")

    def events(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        """The events of a stream."""
        decoder = self._decoder(response, request)
        for piece in response.iter_bytes():
            for event in decoder.feed(piece):
                yield self.credentials.redact(event) if b'"error"' in event else event
        for event in decoder.finish():
            yield self.credentials.redact(event) if b'"error"' in event else event

    async def aevents(self, response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        """The events of a stream."""
        decoder = self._decoder(response, request)
        async for piece in response.aiter_bytes():
            for event in decoder.feed(piece):
                yield self.credentials.redact(event) if b'"error"' in event else event
        for event in decoder.finish():
            yield self.credentials.redact(event) if b'"error"' in event else event

    def _decoder(self, response: httpx.Response, request: Request) -> EventDecoder | LineDecoder:
        kind = response.headers.get("content-type", "")
        if request.credential == OLLAMA:
            return LineDecoder(request.base)
        if kind and not kind.startswith("text/event-stream"):
            raise malformed_reply(request.base, f"{kind} instead of a stream of events")
        return EventDecoder(request.base)

    def _timeout(self) -> httpx.Timeout:
        """The client's timeout, with a limit for connecting also if the client has none."""
        own = self._client.timeout
        if own.connect is not None:
            return own
        return httpx.Timeout(connect=CONNECT_TIMEOUT_S, read=own.read, write=own.write, pool=own.pool)


class BodyReader:
    """The body of a reply that arrives in pieces, within the limit of its length."""

    def __init__(self, response: httpx.Response, request: Request) -> None:
        """`request` names the server in errors."""
        self._response = response
        self._request = request
        self._body = bytearray()  # a list of tiny pieces would take many times its size

    def add(self, piece: bytes) -> None:
        """Append a piece. Raises `MalformedReply` if the body is too long."""
        self._body += piece
        limit = MAX_REPLY_BYTES if self._response.is_success else MAX_ERROR_BYTES
        if len(self._body) > limit:
            raise malformed_reply(self._request.base, f"it is longer than {limit} bytes")

    def reply(self, credentials: Credentials) -> Reply:
        """The reply. Keys are removed where the text may be shown: from errors and from lists of models."""
        body = bytes(self._body)
        if self._response.is_success and self._request.path != MODELS_PATH:
            return Reply(self._response.status_code, body)
        return Reply(self._response.status_code, credentials.redact(body), _retry_after(self._response))


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds of a `Retry-After` header, which may also hold a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):  # the last: a year out of range
        return None
