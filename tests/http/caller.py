"""One way to call both clients, so that each test runs on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ollama_compat as ollama


class Caller:
    """Wraps a `Client` or an `AsyncClient`; its methods block, and return a stream as the list of its parts."""

    def __init__(self, client: ollama.Client | ollama.AsyncClient, runner: asyncio.Runner | None) -> None:
        self.client = client
        self._runner = runner

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = self.wait_for(getattr(self.client, method)(*args, **kwargs))
            return self._rest(answer, []) if kwargs.get("stream") else answer

        return call

    def open(self, method: str, **kwargs: Any) -> Any:
        """Returns an unread stream."""
        return self.wait_for(getattr(self.client, method)(**kwargs, stream=True))

    def next(self, stream: Any) -> Any:
        """Returns the next part of an open stream."""
        return next(stream) if self._runner is None else self._runner.run(anext(stream))

    def until_error(self, stream: Any) -> tuple[list[Any], Exception | None]:
        """Returns the parts of an open stream before an error, and the error (None without one)."""
        parts: list[Any] = []
        try:
            self._rest(stream, parts)
        except Exception as error:
            return parts, error
        return parts, None

    def close(self, stream: Any = None) -> None:
        """Closes a stream, or the client."""
        if stream is None:
            self.finish(self.client)
        else:
            self.wait_for(stream.close() if self._runner is None else stream.aclose())

    def wait_for(self, outcome: Any) -> Any:
        """Awaits the result of a method of either kind of client."""
        if self._runner is None or not hasattr(outcome, "__await__"):
            return outcome
        return self._runner.run(_awaited(outcome))

    def finish(self, client: Any) -> None:
        """Closes a client."""
        self.wait_for(client.close())

    def _rest(self, stream: Any, parts: list[Any]) -> list[Any]:
        if self._runner is None:
            parts.extend(stream)
        else:
            self._runner.run(_collected(stream, parts))
        return parts


async def _awaited(outcome: Any) -> Any:
    return await outcome


async def _collected(stream: Any, parts: list[Any]) -> None:
    async for part in stream:
        parts.append(part)
