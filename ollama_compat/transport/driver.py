"""HTTP: the only file that speaks to a network. Drives an exchange over the user's own httpx client, sync and async.

The client is the one that the official package made from the user's keywords, so `timeout`, `verify`, `transport`,
`headers`, `cookies` and the rest mean what they mean there. Whose key is sent is settled here: what OLLAMA_API_KEY put
there is Ollama's and is never sent to vLLM, and a provider gets its own key and nothing else that the user gave.
What a server may do to the client is bounded here too: redirects are not followed, compressed replies are refused, and
a reply has a most length.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import anyio
import httpx
import msgspec
from httpx._client import UseClientDefault

from ..mapping.errors import malformed_reply, redirected
from ..mapping.vllm_schema import EventDecoder, LineDecoder
from ..settings import OLLAMA
from ..steps import (
    LIST,
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
    Step,
    Steps,
    TakeToken,
)
from .abort import AbortHandle
from .credentials import Credentials
from .errors import CONNECT_TIMEOUT_S, late, translate_error

if TYPE_CHECKING:
    from ..limits.rates import AsyncRates, SyncRates

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The longest reply that is kept in memory (bytes)."""
MAX_ERROR_BYTES = 1024 * 1024
"""The longest error reply that is read (bytes)."""


class SyncDriver:
    """Drives exchanges over an `httpx.Client`."""

    def __init__(self, client: httpx.Client, keys: Credentials, rates: SyncRates | None = None) -> None:
        """`keys`: whose authorization goes where. `rates`: needed where an exchange spends."""
        self._client = client
        self._keys = keys
        self._rates = rates

    def run(self, exchange: Steps[None]) -> Generator[JsonObject]:
        """Yield the parts of an exchange. Closing the iterator closes the connection, which frees the server."""
        events: Iterator[bytes] | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(exchange.close)
            outcome: Outcome = None
            problem: Exception | None = None
            last = Request("GET", "", "")
            opened = stack.enter_context(contextlib.ExitStack())
            while (step := _advance(exchange, outcome, problem)) is not None:
                outcome, problem = None, None
                try:
                    if isinstance(step, NextEvent):
                        outcome = None if events is None else next(events, None)
                    elif isinstance(step, OpenStream):
                        last = step.request
                        opened.close()  # of an attempt before this one
                        response = opened.enter_context(self._sent(step.request))
                        if response.is_success:
                            events = self._events(response, step.request)
                        else:
                            outcome = self._reply(response, step.request)
                    elif isinstance(step, Send):
                        last = step.request
                        outcome = self._ask(step.request)
                    elif isinstance(step, dict):
                        yield step
                    else:
                        outcome = self._other(step)
                except Exception as error:
                    problem = translate_error(error, self._client, last)

    def _other(self, step: Sleep | AcquireSlot | TakeToken | SendAll) -> Outcome:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        if isinstance(step, AcquireSlot):
            return step.queue.green_acquire(timeout=step.timeout)
        if isinstance(step, TakeToken):
            return self._rates.spend(step.operation) if self._rates is not None else 0.0
        return self._ask_all(step)

    def _ask(self, request: Request, line: AbortHandle | None = None) -> Reply:
        with self._sent(request, line) as response:
            return self._reply(response, request)

    def _ask_all(self, step: SendAll) -> list[Reply | Exception]:
        lines = [AbortHandle() for _ in step.requests]
        outcomes: list[Reply | Exception | None] = [None] * len(lines)
        answered: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()

        def answer(place: int, request: Request) -> None:
            try:
                answered.put((place, self._ask(request, lines[place])))
            except Exception as error:
                answered.put((place, translate_error(error, self._client, request)))

        started = time.monotonic()
        until = started + step.timeout
        try:
            for place, request in enumerate(step.requests):
                there = contextvars.copy_context()  # the caller's span is the request's too
                threading.Thread(target=there.run, args=(answer, place, request), daemon=True).start()
            for _ in lines:
                place, outcome = answered.get(timeout=max(0.0, until - time.monotonic()))
                outcomes[place] = outcome
                if _is_enough(step, outcome):
                    until = min(until, time.monotonic() + step.grace)
        except queue.Empty:
            pass
        finally:
            for line, told in zip(lines, outcomes, strict=True):
                if told is None:
                    line.abort()
        waited = time.monotonic() - started
        return [
            outcome or late(self._client, request, line.stands, min(step.timeout, round(waited, 2)))
            for request, outcome, line in zip(step.requests, outcomes, lines, strict=True)
        ]

    @contextlib.contextmanager
    def _sent(self, request: Request, line: AbortHandle | None = None) -> Iterator[httpx.Response]:
        built = _build(self._client, request, self._keys)
        if line is not None:
            line.carries(built, self._client)
        response = self._client.send(built, stream=True, auth=_auth(request, self._keys), follow_redirects=False)
        try:
            _check(response, request)
            yield response
        finally:
            response.close()

    def _reply(self, response: httpx.Response, request: Request) -> Reply:
        body = _Body(response, request)
        for piece in response.iter_bytes():
            body.add(piece)
        return body.reply(self._keys)

    def _events(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        decoder = _decoder(response, request)
        for piece in response.iter_bytes():
            for event in decoder.feed(piece):
                yield _shown(event, self._keys)
        for event in decoder.finish():
            yield _shown(event, self._keys)


class AsyncDriver:
    """The same over an `httpx.AsyncClient`."""

    def __init__(self, client: httpx.AsyncClient, keys: Credentials, rates: AsyncRates | None = None) -> None:
        """`keys`: whose authorization goes where. `rates`: needed where an exchange spends."""
        self._client = client
        self._keys = keys
        self._rates = rates

    async def run(self, exchange: Steps[None]) -> AsyncGenerator[JsonObject]:
        """Yield the parts of an exchange. Closing the iterator closes the connection, which frees the server."""
        events: AsyncIterator[bytes] | None = None
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(exchange.close)
            outcome: Outcome = None
            problem: Exception | None = None
            last = Request("GET", "", "")
            opened = await stack.enter_async_context(contextlib.AsyncExitStack())
            while (step := _advance(exchange, outcome, problem)) is not None:
                outcome, problem = None, None
                try:
                    if isinstance(step, NextEvent):
                        outcome = None if events is None else await anext(events, None)
                    elif isinstance(step, OpenStream):
                        last = step.request
                        await opened.aclose()  # of an attempt before this one
                        response = await opened.enter_async_context(self._sent(step.request))
                        if response.is_success:
                            events = self._events(response, step.request)
                        else:
                            outcome = await self._reply(response, step.request)
                    elif isinstance(step, Send):
                        last = step.request
                        outcome = await self._ask(step.request)
                    elif isinstance(step, dict):
                        yield step
                    else:
                        outcome = await self._other(step)
                except Exception as error:
                    problem = translate_error(error, self._client, last)

    async def _other(self, step: Sleep | AcquireSlot | TakeToken | SendAll) -> Outcome:
        if isinstance(step, Sleep):
            await anyio.sleep(step.seconds)
            return None
        if isinstance(step, AcquireSlot):
            return await step.queue.async_acquire(timeout=step.timeout)
        if isinstance(step, TakeToken):
            return await self._rates.spend(step.operation) if self._rates is not None else 0.0
        return await self._ask_all(step)

    async def _ask(self, request: Request, line: AbortHandle | None = None) -> Reply:
        async with self._sent(request, line) as response:
            return await self._reply(response, request)

    async def _ask_all(self, step: SendAll) -> list[Reply | Exception]:
        lines = [AbortHandle() for _ in step.requests]
        outcomes: list[Reply | Exception | None] = [None] * len(lines)

        async def answer(place: int, request: Request) -> None:
            try:
                outcome: Reply | Exception = await self._ask(request, lines[place])
            except Exception as error:
                outcome = translate_error(error, self._client, request)
            outcomes[place] = outcome
            if _is_enough(step, outcome):
                waiting.deadline = min(waiting.deadline, anyio.current_time() + step.grace)

        started = time.monotonic()
        with anyio.move_on_after(step.timeout) as waiting:
            async with anyio.create_task_group() as tasks:
                for place, request in enumerate(step.requests):
                    tasks.start_soon(answer, place, request)
        waited = time.monotonic() - started
        return [
            outcome or late(self._client, request, line.stands, min(step.timeout, round(waited, 2)))
            for request, outcome, line in zip(step.requests, outcomes, lines, strict=True)
        ]

    @contextlib.asynccontextmanager
    async def _sent(self, request: Request, line: AbortHandle | None = None) -> AsyncIterator[httpx.Response]:
        built = _build(self._client, request, self._keys)
        if line is not None:
            line.carries(built, self._client)
        response = await self._client.send(built, stream=True, auth=_auth(request, self._keys), follow_redirects=False)
        try:
            _check(response, request)
            yield response
        finally:
            await response.aclose()

    async def _reply(self, response: httpx.Response, request: Request) -> Reply:
        body = _Body(response, request)
        async for piece in response.aiter_bytes():
            body.add(piece)
        return body.reply(self._keys)

    async def _events(self, response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        decoder = _decoder(response, request)
        async for piece in response.aiter_bytes():
            for event in decoder.feed(piece):
                yield _shown(event, self._keys)
        for event in decoder.finish():
            yield _shown(event, self._keys)


def _is_enough(step: SendAll, outcome: Reply | Exception) -> bool:
    return step.enough is not None and isinstance(outcome, Reply) and step.enough(outcome)


def _advance(exchange: Steps[None], outcome: Outcome, problem: Exception | None) -> Step | None:
    """The exchange's next step, None at its end. What an exchange does not catch reaches the caller."""
    try:
        return exchange.send(outcome) if problem is None else exchange.throw(problem)
    except StopIteration:
        return None


def _build(client: httpx.Client | httpx.AsyncClient, request: Request, keys: Credentials) -> httpx.Request:
    content = None if request.payload is None else msgspec.json.encode(request.payload)
    timeout = _timeout(client) if request.timeout is None else httpx.Timeout(request.timeout)
    if keys.is_provider(request.credential):  # a stranger: nothing that the client sends elsewhere is for it
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            **keys.headers(request.credential),
        }
        extensions = {"timeout": timeout.as_dict()}
        return httpx.Request(request.method, request.url, headers=headers, content=content, extensions=extensions)
    built = client.build_request(request.method, request.url, content=content, timeout=timeout)
    built.headers["accept-encoding"] = "identity"
    if request.credential != OLLAMA:
        built.headers.pop("authorization", None)
        built.headers.update(keys.headers(request.credential))
    return built


def _timeout(client: httpx.Client | httpx.AsyncClient) -> httpx.Timeout:
    """The client's own timeout; where it has none for connecting, a host that is dark is given up all the same."""
    own = client.timeout
    connect = CONNECT_TIMEOUT_S if own.connect is None else own.connect
    return httpx.Timeout(connect=connect, read=own.read, write=own.write, pool=own.pool)


def _auth(request: Request, keys: Credentials) -> httpx.Auth | UseClientDefault:
    """A key of the server's own goes over the `auth` that the client was made with, which is no provider's either."""
    if keys.is_provider(request.credential) or (request.credential != OLLAMA and keys.headers(request.credential)):
        return httpx.Auth()
    return httpx.USE_CLIENT_DEFAULT


def _check(response: httpx.Response, request: Request) -> None:
    """A redirect could carry the prompt anywhere, and a few compressed bytes could fill the memory."""
    if response.has_redirect_location:
        raise redirected(request.url, response.headers["location"])
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise malformed_reply(request.base, f"it is compressed ({encoding}), which was not asked for")


def _decoder(response: httpx.Response, request: Request) -> EventDecoder | LineDecoder:
    kind = response.headers.get("content-type", "")
    if request.credential == OLLAMA:
        return LineDecoder(request.base)
    if kind and not kind.startswith("text/event-stream"):
        raise malformed_reply(request.base, f"{kind} where a stream of events was asked for")
    return EventDecoder(request.base)


def _shown(event: bytes, keys: Credentials) -> bytes:
    """An event; one that tells of an error is without the keys, as error replies are."""
    return keys.hidden(event) if b'"error"' in event else event


class _Body:
    """The body of a reply as it comes, no longer than what is kept."""

    def __init__(self, response: httpx.Response, request: Request) -> None:
        self._response = response
        self._request = request
        self._body = bytearray()  # a list of tiny pieces would be many times its size

    def add(self, piece: bytes) -> None:
        self._body += piece
        most = MAX_REPLY_BYTES if self._response.is_success else MAX_ERROR_BYTES
        if len(self._body) > most:
            raise malformed_reply(self._request.base, f"it is longer than {most} bytes")

    def reply(self, keys: Credentials) -> Reply:
        body = bytes(self._body)
        if self._response.is_success and self._request.path != LIST:  # names are shown, vectors are not
            return Reply(self._response.status_code, body)
        return Reply(self._response.status_code, keys.hidden(body), _retry_after(self._response))


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After` header, which may also be a date (RFC 9110, 10.2.3)."""
    said = response.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        when = parsedate_to_datetime(said)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):  # the last: a year that no clock has
        return None
