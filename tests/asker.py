"""One way to call both clients, so that each test runs on both.

`connect(**settings)` creates a `Client` and, in the second run of a test, an `AsyncClient` with its own event loop. The
returned `Asker` has the methods of the client; they block, and return a stream as the list of its parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import ollama_compat as ollama


class Asker:
    """Wraps a `Client` or an `AsyncClient`; its methods block."""

    def __init__(self, client: ollama.Client | ollama.AsyncClient, runner: asyncio.Runner | None) -> None:
        self.client = client
        self._runner = runner

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outcome = getattr(self.client, method)(*args, **kwargs)
            if self._runner is None:
                return list(outcome) if kwargs.get("stream") else outcome
            return self._runner.run(_collected(outcome, kwargs.get("stream")))

        return call

    def close(self) -> None:
        if self._runner is None:
            self.client.close()
        else:
            self._runner.run(self.client.close())


async def _collected(outcome: Any, stream: bool | None) -> Any:
    reply = await outcome
    return [part async for part in reply] if stream else reply


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Asker]]:
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner()) if request.param == "async" else None
        kind = ollama.AsyncClient if runner else ollama.Client

        def make(**settings: Any) -> Asker:
            asker = Asker(kind(backend_mode="vllm", **settings), runner)
            stack.callback(asker.close)
            return asker

        yield make
