"""Drivers: run the steps of a call over the user's own httpx client, `SyncDriver` and `AsyncDriver`.

A driver performs a step and sends the outcome into the generator, until the generator yields a part for the caller or
ends. Closing the driver's generator closes the connection, which frees the server. All network I/O of the package is in
this folder.

The httpx client is the one that the official package makes from the user's keywords, so `timeout`, `verify`,
`transport`, `headers`, `cookies` and the others keep their meaning. The key of OLLAMA_API_KEY is never sent to vLLM,
and a provider receives its own key and nothing else that the user gave. What a server can do to the client is bounded:
redirects are not followed, compressed replies are refused, and the length of a reply is limited.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeAlias

import anyio
import httpx
import msgspec
from httpx._client import UseClientDefault

from ..mapping.errors import malformed_reply, redirected
from ..settings import OLLAMA
from ..steps import (
    MODELS_PATH,
    AcquireSlot,
    JsonObject,
    NextEvent,
    OpenStream,
    Outcome,
    Reply,
    Request,
    Send,
    SendAll,
    Sleep,
    Steps,
    TakeToken,
)
from .abort import AbortHandle
from .credentials import Credentials
from .errors import CONNECT_TIMEOUT_S, translate_error
from .parallel import async_send_all, send_all
from .sse import EventDecoder, LineDecoder

if TYPE_CHECKING:
    from ..limits.rates import AsyncRates, SyncRates

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The longest reply that is kept in memory (bytes)."""
MAX_ERROR_BYTES = 1024 * 1024
"""The longest error reply that is read (bytes)."""

_NO_REQUEST = Request("GET", "", "")

AnyClient: TypeAlias = httpx.Client | httpx.AsyncClient


class SyncDriver:
    """Runs steps over an `httpx.Client`."""

    def __init__(self, client: httpx.Client, credentials: Credentials, rates: SyncRates | None = None) -> None:
        """`credentials`: the key for each kind of server. `rates`: needed if the steps take tokens."""
        self._client, self._credentials, self.rates = client, credentials, rates

    def run(self, steps: Steps[None]) -> Generator[JsonObject]:
        """Yield the parts of a call. An exception that the steps do not catch reaches the caller."""
        stream: httpx.Response | None = None
        events: Iterator[bytes] = iter(())
        outcome: Outcome | Exception = None
        request = _NO_REQUEST
        try:
            while True:
                try:
                    step = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
                except StopIteration:
                    return
                outcome = None
                try:
                    if isinstance(step, NextEvent):
                        outcome = next(events, None)
                    elif isinstance(step, dict):
                        yield step
                    elif isinstance(step, OpenStream):
                        request = step.request
                        if stream is not None:  # of an earlier attempt
                            stream.close()
                        stream = self._send(request)
                        if stream.is_success:
                            events = self._events(stream, request)
                        else:
                            outcome = self._read(stream, request)
                    elif isinstance(step, Send):
                        request = step.request
                        outcome = self._request(request)
                    else:
                        outcome = self._perform(step)
                except Exception as error:
                    outcome = translate_error(error, self._client, request)
        finally:
            try:
                if stream is not None:
                    stream.close()
            finally:
                steps.close()

    def _perform(self, step: Sleep | AcquireSlot | TakeToken | SendAll) -> Outcome:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        if isinstance(step, AcquireSlot):
            return step.queue.green_acquire(timeout=step.timeout)
        if isinstance(step, TakeToken):
            return self.rates.spend(step.operation) if self.rates is not None else 0.0
        return send_all(self._client, step, self._request)

    def _send(self, request: Request, abort: AbortHandle | None = None) -> httpx.Response:
        built, auth = build(self._client, request, self._credentials)
        if abort is not None:
            abort.attach(built, self._client)
        response = self._client.send(built, stream=True, auth=auth, follow_redirects=False)
        try:
            check(response, request)
        except Exception:
            response.close()
            raise
        return response

    def _request(self, request: Request, abort: AbortHandle | None = None) -> Reply:
        response = self._send(request, abort)
        try:
            return self._read(response, request)
        finally:
            response.close()

    def _read(self, response: httpx.Response, request: Request) -> Reply:
        body = BodyReader(response, request)
        for piece in response.iter_bytes():
            body.add(piece)
        return body.reply(self._credentials)

    def _events(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        decoder = event_decoder(response, request)
        for piece in response.iter_bytes():
            for event in decoder.feed(piece):
                yield redacted(event, self._credentials)
        for event in decoder.finish():
            yield redacted(event, self._credentials)


class AsyncDriver:
    """Runs steps over an `httpx.AsyncClient`, under asyncio or trio."""

    def __init__(self, client: httpx.AsyncClient, credentials: Credentials, rates: AsyncRates | None = None) -> None:
        """As `SyncDriver`."""
        self._client, self._credentials, self.rates = client, credentials, rates

    async def run(self, steps: Steps[None]) -> AsyncGenerator[JsonObject]:
        """Yield the parts of a call. An exception that the steps do not catch reaches the caller."""
        stream: httpx.Response | None = None
        events: AsyncIterator[bytes] | None = None
        outcome: Outcome | Exception = None
        request = _NO_REQUEST
        try:
            while True:
                try:
                    step = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
                except StopIteration:
                    return
                outcome = None
                try:
                    if isinstance(step, NextEvent):
                        outcome = None if events is None else await anext(events, None)
                    elif isinstance(step, dict):
                        yield step
                    elif isinstance(step, OpenStream):
                        request = step.request
                        if stream is not None:  # of an earlier attempt
                            await stream.aclose()
                        stream = await self._send(request)
                        if stream.is_success:
                            events = self._events(stream, request)
                        else:
                            outcome = await self._read(stream, request)
                    elif isinstance(step, Send):
                        request = step.request
                        outcome = await self._request(request)
                    else:
                        outcome = await self._perform(step)
                except Exception as error:
                    outcome = translate_error(error, self._client, request)
        finally:
            try:
                if stream is not None:
                    await stream.aclose()
            finally:
                steps.close()

    async def _perform(self, step: Sleep | AcquireSlot | TakeToken | SendAll) -> Outcome:
        if isinstance(step, Sleep):
            await anyio.sleep(step.seconds)
            return None
        if isinstance(step, AcquireSlot):
            return await step.queue.async_acquire(timeout=step.timeout)
        if isinstance(step, TakeToken):
            return await self.rates.spend(step.operation) if self.rates is not None else 0.0
        return await async_send_all(self._client, step, self._request)

    async def _send(self, request: Request, abort: AbortHandle | None = None) -> httpx.Response:
        built, auth = build(self._client, request, self._credentials)
        if abort is not None:
            abort.attach(built, self._client)
        response = await self._client.send(built, stream=True, auth=auth, follow_redirects=False)
        try:
            check(response, request)
        except Exception:
            await response.aclose()
            raise
        return response

    async def _request(self, request: Request, abort: AbortHandle | None = None) -> Reply:
        response = await self._send(request, abort)
        try:
            return await self._read(response, request)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, request: Request) -> Reply:
        body = BodyReader(response, request)
        async for piece in response.aiter_bytes():
            body.add(piece)
        return body.reply(self._credentials)

    async def _events(self, response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        decoder = event_decoder(response, request)
        async for piece in response.aiter_bytes():
            for event in decoder.feed(piece):
                yield redacted(event, self._credentials)
        for event in decoder.finish():
            yield redacted(event, self._credentials)


def redacted(event: bytes, credentials: Credentials) -> bytes:
    """The event of a stream without keys. Only an error quotes a key, so the other events are not searched."""
    return credentials.redact(event) if b'"error"' in event else event


def build(
    client: AnyClient, request: Request, credentials: Credentials
) -> tuple[httpx.Request, httpx.Auth | UseClientDefault]:
    """The HTTP request and its `auth`: a server's own key replaces the client's, which no provider receives."""
    own_headers = credentials.by_destination.get(request.credential)
    content = None if request.payload is None else msgspec.json.encode(request.payload)
    timeout = client.timeout if request.timeout is None else httpx.Timeout(request.timeout)
    if timeout.connect is None:
        timeout = httpx.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout.read, write=timeout.write, pool=timeout.pool)
    url = request.base + request.path
    if request.credential not in ("vllm", OLLAMA):  # a provider receives nothing that the client sends elsewhere
        headers = {"content-type": "application/json", "accept-encoding": "identity", **(own_headers or {})}
        extensions = {"timeout": timeout.as_dict()}
        built = httpx.Request(request.method, url, headers=headers, content=content, extensions=extensions)
        return built, httpx.Auth()
    built = client.build_request(request.method, url, content=content, timeout=timeout)
    built.headers["accept-encoding"] = "identity"
    if request.credential == OLLAMA:
        return built, httpx.USE_CLIENT_DEFAULT
    built.headers.pop("authorization", None)
    if own_headers:
        built.headers.update(own_headers)
        return built, httpx.Auth()
    return built, httpx.USE_CLIENT_DEFAULT


def check(response: httpx.Response, request: Request) -> None:
    """Refuse a redirect, which could carry the prompt anywhere, and compression, which could fill the memory."""
    if response.has_redirect_location:
        raise redirected(request.url, response.headers["location"])
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise malformed_reply(request.base, f"it is compressed ({encoding}), which the request does not allow")


def event_decoder(response: httpx.Response, request: Request) -> LineDecoder:
    """The decoder for the events of a stream. Raises `MalformedReply` for a reply that is no stream of events."""
    if request.credential == OLLAMA:
        return LineDecoder(request.base)
    kind = response.headers.get("content-type", "")
    if kind and not kind.startswith("text/event-stream"):
        raise malformed_reply(request.base, f"{kind} instead of a stream of events")
    return EventDecoder(request.base)


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
