"""Sends several requests side by side within one time limit: the step `SendAll`, for both drivers."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import httpx

from ..steps import Reply, Request, SendAll
from .abort import AbortHandle
from .errors import timeout_error, translate_error


def send_all(
    client: httpx.Client, step: SendAll, send: Callable[[Request, AbortHandle], Reply]
) -> list[Reply | Exception]:
    """Send the requests in threads. `send` sends one request and reads its reply; an unfinished one is aborted."""
    handles = [AbortHandle() for _ in step.requests]
    outcomes: list[Reply | Exception | None] = [None] * len(handles)
    finished: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()

    def run(index: int, request: Request) -> None:
        try:
            finished.put((index, send(request, handles[index])))
        except Exception as error:
            finished.put((index, translate_error(error, client, request)))

    started = time.monotonic()
    until = started + step.timeout
    try:
        for index, request in enumerate(step.requests):
            context = contextvars.copy_context()  # the caller's span is the parent of the request's span
            threading.Thread(target=context.run, args=(run, index, request), daemon=True).start()
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
    return _with_timeouts(client, step, outcomes, handles, time.monotonic() - started)


async def async_send_all(
    client: httpx.AsyncClient, step: SendAll, send: Callable[[Request, AbortHandle], Awaitable[Reply]]
) -> list[Reply | Exception]:
    """Send the requests in tasks. `send` sends one request and reads its reply; an unfinished one is cancelled."""
    handles = [AbortHandle() for _ in step.requests]
    outcomes: list[Reply | Exception | None] = [None] * len(handles)

    async def run(index: int, request: Request) -> None:
        try:
            outcome: Reply | Exception = await send(request, handles[index])
        except Exception as error:
            outcome = translate_error(error, client, request)
        outcomes[index] = outcome
        if _is_enough(step, outcome):
            waiting.deadline = min(waiting.deadline, anyio.current_time() + step.grace)

    started = time.monotonic()
    with anyio.move_on_after(step.timeout) as waiting:
        async with anyio.create_task_group() as tasks:
            for index, request in enumerate(step.requests):
                tasks.start_soon(run, index, request)
    return _with_timeouts(client, step, outcomes, handles, time.monotonic() - started)


def _is_enough(step: SendAll, outcome: Reply | Exception) -> bool:
    return step.enough is not None and isinstance(outcome, Reply) and step.enough(outcome)


def _with_timeouts(
    client: httpx.Client | httpx.AsyncClient,
    step: SendAll,
    outcomes: list[Reply | Exception | None],
    handles: list[AbortHandle],
    waited: float,
) -> list[Reply | Exception]:
    """The outcomes; a request without one gets the exception for that."""
    seconds = min(step.timeout, round(waited, 2))
    return [
        outcome or timeout_error(client, request, handle.connected, seconds)
        for request, outcome, handle in zip(step.requests, outcomes, handles, strict=True)
    ]
