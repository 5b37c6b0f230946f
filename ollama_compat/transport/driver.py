"""Drivers: run the steps of a call over the user's own httpx client, `SyncDriver` and `AsyncDriver`.

A driver performs a step and sends the outcome into the generator, until the generator yields a part for the caller or
ends. Closing the driver's generator closes the connection, which frees the server. What both drivers do with a request
and a reply is in http.py; this file and abort.py are the only ones that do network I/O.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING

import anyio
import httpx

from ..steps import (
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
from .errors import timeout_error, translate_error
from .http import BodyReader, Exchange

if TYPE_CHECKING:
    from ..limits.rates import AsyncRates, SyncRates

NO_REQUEST = Request("GET", "", "")


class SyncDriver:
    """Runs steps over an `httpx.Client`."""

    def __init__(self, client: httpx.Client, credentials: Credentials, rates: SyncRates | None = None) -> None:
        """`credentials`: the key for each kind of server. `rates`: needed if the steps take tokens."""
        self.client = client
        self._exchange = Exchange(client, credentials)
        self._rates = rates

    def run(self, steps: Steps[None]) -> Generator[JsonObject]:
        """Yield the parts of a call."""
        stream: httpx.Response | None = None
        events: Iterator[bytes] = iter(())
        outcome: Outcome | Exception = None
        request = NO_REQUEST
        try:
            while (step := _advance(steps, outcome)) is not None:
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
                            events = self._exchange.events(stream, request)
                        else:
                            outcome = self._read(stream, request)
                    elif isinstance(step, Send):
                        request = step.request
                        outcome = self._request(request)
                    else:
                        outcome = self._perform(step)
                except Exception as error:
                    outcome = translate_error(error, self.client, request)
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
            return self._rates.spend(step.operation) if self._rates is not None else 0.0
        return self._send_all(step)

    def _send(self, request: Request, abort: AbortHandle | None = None) -> httpx.Response:
        built = self._exchange.build(request)
        if abort is not None:
            abort.attach(built, self.client)
        auth = self._exchange.auth(request)
        response = self.client.send(built, stream=True, auth=auth, follow_redirects=False)
        try:
            self._exchange.check(response, request)
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
        return body.reply(self._exchange.credentials)

    def _send_all(self, step: SendAll) -> list[Reply | Exception]:
        handles = [AbortHandle() for _ in step.requests]
        outcomes: list[Reply | Exception | None] = [None] * len(handles)
        finished: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()

        def send(index: int, request: Request) -> None:
            try:
                finished.put((index, self._request(request, handles[index])))
            except Exception as error:
                finished.put((index, translate_error(error, self.client, request)))

        started = time.monotonic()
        until = started + step.timeout
        try:
            for index, request in enumerate(step.requests):
                context = contextvars.copy_context()  # the caller's span is the parent of the request's span
                threading.Thread(target=context.run, args=(send, index, request), daemon=True).start()
            for _ in handles:
                index, outcome = finished.get(timeout=max(0.0, until - time.monotonic()))
                outcomes[index] = outcome
                if _is_enough(step, outcome):
                    until = min(until, time.monotonic() + step.grace)
        except queue.Empty:
            pass
        finally:
            for handle, received in zip(handles, outcomes, strict=True):
                if received is None:
                    handle.abort()
        return _with_timeouts(self.client, step, outcomes, handles, time.monotonic() - started)


class AsyncDriver:
    """Runs steps over an `httpx.AsyncClient`, under asyncio or trio."""

    def __init__(self, client: httpx.AsyncClient, credentials: Credentials, rates: AsyncRates | None = None) -> None:
        """As `SyncDriver`."""
        self.client = client
        self._exchange = Exchange(client, credentials)
        self._rates = rates

    async def run(self, steps: Steps[None]) -> AsyncGenerator[JsonObject]:
        """Yield the parts of a call."""
        stream: httpx.Response | None = None
        events: AsyncIterator[bytes] | None = None
        outcome: Outcome | Exception = None
        request = NO_REQUEST
        try:
            while (step := _advance(steps, outcome)) is not None:
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
                            events = self._exchange.aevents(stream, request)
                        else:
                            outcome = await self._read(stream, request)
                    elif isinstance(step, Send):
                        request = step.request
                        outcome = await self._request(request)
                    else:
                        outcome = await self._perform(step)
                except Exception as error:
                    outcome = translate_error(error, self.client, request)
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
            return await self._rates.spend(step.operation) if self._rates is not None else 0.0
        return await self._send_all(step)

    async def _send(self, request: Request, abort: AbortHandle | None = None) -> httpx.Response:
        built = self._exchange.build(request)
        if abort is not None:
            abort.attach(built, self.client)
        auth = self._exchange.auth(request)
        response = await self.client.send(built, stream=True, auth=auth, follow_redirects=False)
        try:
            self._exchange.check(response, request)
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
        return body.reply(self._exchange.credentials)

    async def _send_all(self, step: SendAll) -> list[Reply | Exception]:
        handles = [AbortHandle() for _ in step.requests]
        outcomes: list[Reply | Exception | None] = [None] * len(handles)

        async def send(index: int, request: Request) -> None:
            try:
                outcome: Reply | Exception = await self._request(request, handles[index])
            except Exception as error:
                outcome = translate_error(error, self.client, request)
            outcomes[index] = outcome
            if _is_enough(step, outcome):
                waiting.deadline = min(waiting.deadline, anyio.current_time() + step.grace)

        started = time.monotonic()
        with anyio.move_on_after(step.timeout) as waiting:
            async with anyio.create_task_group() as tasks:
                for index, request in enumerate(step.requests):
                    tasks.start_soon(send, index, request)
        return _with_timeouts(self.client, step, outcomes, handles, time.monotonic() - started)


def _advance(steps: Steps[None], outcome: Outcome | Exception) -> Step | None:
    """The next step; None at the end. An exception that the generator does not catch reaches the caller."""
    try:
        return steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
    except StopIteration:
        return None


def _is_enough(step: SendAll, outcome: Reply | Exception) -> bool:
    return step.enough is not None and isinstance(outcome, Reply) and step.enough(outcome)


def _with_timeouts(
    client: httpx.Client | httpx.AsyncClient,
    step: SendAll,
    outcomes: list[Reply | Exception | None],
    handles: list[AbortHandle],
    waited: float,
) -> list[Reply | Exception]:
    """The outcomes; a request that was not answered in time has the exception for that."""
    seconds = min(step.timeout, round(waited, 2))
    return [
        outcome or timeout_error(client, request, handle.connected, seconds)
        for request, outcome, handle in zip(step.requests, outcomes, handles, strict=True)
    ]
