"""HTTP: the only file that speaks to a network. Drives an exchange over the user's own httpx client, sync and async.

The client is the one that the official package made from the user's keywords, so `timeout`, `verify`, `transport`,
`headers`, `cookies` and the rest mean what they mean there. Only the authorization differs: what OLLAMA_API_KEY put
there is Ollama's and is never sent to vLLM.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import httpx
import msgspec
from httpx._client import UseClientDefault

from .errors import broken_off, malformed, response_error, unreachable
from .exchange import Ask, Exchange, Next, Open, Outcome, Part, Reply, Request, Step
from .wire import EventDecoder

CONNECT_TIMEOUT_S = 10.0
"""How long connecting to a server may take where the client's own timeout does not say (seconds)."""


class Upstream:
    """Drives exchanges over an `httpx.Client`."""

    def __init__(self, client: httpx.Client, authorization: str | None) -> None:
        """`authorization`: the header's value for vLLM, None for no header."""
        self._client = client
        self._authorization = authorization

    def run(self, exchange: Exchange[None]) -> Generator[Part]:
        """Yield the parts of an exchange. Closing the iterator closes the connection, which frees the server."""
        events: Iterator[bytes] | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(exchange.close)
            outcome: Outcome = None
            problem: Exception | None = None
            last = Request("GET", "", "")
            while (step := _advance(exchange, outcome, problem)) is not None:
                outcome, problem = None, None
                try:
                    if isinstance(step, Next):
                        outcome = None if events is None else next(events, None)
                    elif isinstance(step, Open):
                        last = step.request
                        response = self._send(stack, step.request)
                        if response.is_success:
                            _check_stream(response, step.request)
                            events = _events(response, step.request)
                        else:
                            outcome = Reply(response.status_code, response.read())
                    elif isinstance(step, Ask):
                        last = step.request
                        with contextlib.ExitStack() as whole:
                            response = self._send(whole, step.request)
                            outcome = Reply(response.status_code, response.read())
                    else:
                        yield step
                except httpx.RequestError as error:
                    problem = _problem(error, self._client, last)

    def _send(self, stack: contextlib.ExitStack, request: Request) -> httpx.Response:
        built = _build(self._client, request, self._authorization)
        response = self._client.send(built, stream=True, auth=_auth(self._authorization))
        stack.callback(response.close)
        _check_method(response, request)
        return response


class AsyncUpstream:
    """The same over an `httpx.AsyncClient`."""

    def __init__(self, client: httpx.AsyncClient, authorization: str | None) -> None:
        """`authorization`: the header's value for vLLM, None for no header."""
        self._client = client
        self._authorization = authorization

    async def run(self, exchange: Exchange[None]) -> AsyncGenerator[Part]:
        """Yield the parts of an exchange. Closing the iterator closes the connection, which frees the server."""
        events: AsyncIterator[bytes] | None = None
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(exchange.close)
            outcome: Outcome = None
            problem: Exception | None = None
            last = Request("GET", "", "")
            while (step := _advance(exchange, outcome, problem)) is not None:
                outcome, problem = None, None
                try:
                    if isinstance(step, Next):
                        outcome = None if events is None else await anext(events, None)
                    elif isinstance(step, Open):
                        last = step.request
                        response = await self._send(stack, step.request)
                        if response.is_success:
                            _check_stream(response, step.request)
                            events = _aevents(response, step.request)
                        else:
                            outcome = Reply(response.status_code, await response.aread())
                    elif isinstance(step, Ask):
                        last = step.request
                        async with contextlib.AsyncExitStack() as whole:
                            response = await self._send(whole, step.request)
                            outcome = Reply(response.status_code, await response.aread())
                    else:
                        yield step
                except httpx.RequestError as error:
                    problem = _problem(error, self._client, last)

    async def _send(self, stack: contextlib.AsyncExitStack, request: Request) -> httpx.Response:
        built = _build(self._client, request, self._authorization)
        response = await self._client.send(built, stream=True, auth=_auth(self._authorization))
        stack.push_async_callback(response.aclose)
        _check_method(response, request)
        return response


def _advance(exchange: Exchange[None], outcome: Outcome, problem: Exception | None) -> Step | None:
    """The exchange's next step, None at its end. What an exchange does not catch reaches the caller."""
    try:
        return exchange.send(outcome) if problem is None else exchange.throw(problem)
    except StopIteration:
        return None


def _build(client: httpx.Client | httpx.AsyncClient, request: Request, authorization: str | None) -> httpx.Request:
    built = client.build_request(
        request.method,
        request.url,
        content=None if request.payload is None else msgspec.json.encode(request.payload),
        timeout=_timeout(client) if request.timeout is None else request.timeout,
    )
    built.headers.pop("authorization", None)
    if authorization is not None:
        built.headers["authorization"] = authorization
    return built


def _timeout(client: httpx.Client | httpx.AsyncClient) -> httpx.Timeout:
    """The client's own timeout; where it has none for connecting, a host that is dark is given up all the same."""
    own = client.timeout
    connect = CONNECT_TIMEOUT_S if own.connect is None else own.connect
    return httpx.Timeout(connect=connect, read=own.read, write=own.write, pool=own.pool)


def _check_method(response: httpx.Response, request: Request) -> None:
    """A redirect that makes a GET of a POST loses the question."""
    if response.request.method != request.method:
        raise response_error(f"{request.url} redirects to {response.url}: put the new URL into VLLM_URLS", 502)


def _check_stream(response: httpx.Response, request: Request) -> None:
    kind = response.headers.get("content-type", "")
    if kind and not kind.startswith("text/event-stream"):
        raise malformed(request.base, f"{kind} where a stream of events was asked for")


def _auth(authorization: str | None) -> httpx.Auth | UseClientDefault:
    """An authorization of vLLM's own goes over the `auth` that the client was made with."""
    return httpx.USE_CLIENT_DEFAULT if authorization is None else httpx.Auth()


def _events(response: httpx.Response, request: Request) -> Iterator[bytes]:
    decoder = EventDecoder(request.base)
    for piece in response.iter_bytes():
        yield from decoder.feed(piece)
    yield from decoder.finish()


async def _aevents(response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
    decoder = EventDecoder(request.base)
    async for piece in response.aiter_bytes():
        for event in decoder.feed(piece):
            yield event
    for event in decoder.finish():
        yield event


def _problem(error: httpx.RequestError, client: httpx.Client | httpx.AsyncClient, last: Request) -> Exception:
    """A transport error as callers of the official client know it, with the server's name in it."""
    if isinstance(error, httpx.ConnectTimeout) and client.timeout.connect is None:
        return unreachable(last.base, last.model, f"no answer within {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, httpx.ConnectError):
        return unreachable(last.base, last.model, str(error) or "no connection")
    if isinstance(error, httpx.TimeoutException):
        kind = type(error)
        return kind(f"{last.base} did not answer in time ({kind.__name__}, timeout {client.timeout})", request=None)
    return broken_off(last.base, f"{type(error).__name__}: {error}")
