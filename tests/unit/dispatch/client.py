"""A client whose two servers are played: what the tests of the guard share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from ollama import ResponseError

from ollama_compat import Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.mapping.errors import unreachable
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.steps import Reply, SendAll, Steps
from ollama_compat.telemetry.call_record import CallRecord
from ollama_compat.telemetry.stats import Counts
from tests.play import Play, StillClock, refused, reply

A, B = "http://a:8001", "http://b:8002"
CHAT = "/v1/chat/completions"
DEEPSEEK = "https://api.deepseek.com/v1/chat/completions"
PROMPT, ANSWER = "my-prompt", "my-answer"

REFUSES = unreachable(A, "smol", "refused")
LOADING = refused("loading", 503)
BOOM = refused("boom", 500)
BUSY = refused("too much to do", 429)
UNAUTHORIZED = reply({"error": "Unauthorized"}, 401)
FROM_OLLAMA = reply({"model": "qwen3:8b", "message": {"role": "assistant", "content": ANSWER}, "done": True})


class Watch:
    """An observer that keeps the calls that ended."""

    def __init__(self) -> None:
        self.started_: list[CallRecord] = []
        self.ended_: list[CallRecord] = []

    def started(self, running: CallRecord) -> None:
        self.started_.append(running)

    def ended(self, running: CallRecord) -> None:
        self.ended_.append(running)

    def after_fork(self) -> Watch:
        return self


class Servers(Play):
    """A playing in which the servers say what they serve; the script and `requests` have all other requests."""

    def __init__(self, serves: dict[str, Sequence[str]]) -> None:
        super().__init__()
        self.serves = serves

    def _answer(self, step: Any, lines: Any, events: Any) -> tuple[Any, Any]:
        if isinstance(step, SendAll):
            return [self.told(request.base) for request in step.requests], events
        return super()._answer(step, lines, events)

    def told(self, base: str) -> Reply | Exception:
        """What a server says that it serves."""
        return reply({"data": [{"id": name} for name in self.serves[base]]})


class Client:
    """Servers A and B, of which it is known what they serve, and what is told of the calls."""

    def __init__(self, a: Sequence[str] = ("smol",), b: Sequence[str] = ("smol", "other"), **settings: Any) -> None:
        self.clock, self.watch = StillClock(), Watch()
        self.serves = {A: a, B: b}
        self.made = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B), **settings), self.clock)
        self.made.observers.add(self.watch)
        for server, names in zip(self.made.registry.servers, (a, b), strict=True):
            server.models, server.listed_at = tuple(ModelCard(name) for name in names), -1

    def exchange(self, path: str = "/api/chat", timeout_s: float | None = None, **body: Any) -> Steps[None]:
        asked = {"model": "smol", "messages": [{"role": "user", "content": PROMPT}], "prompt": PROMPT, **body}
        exchange = self.made.dispatch(path, asked, timeout_s)
        assert exchange is not None
        return exchange

    def ask(self, *script: Any, timeout_s: float | None = None, play: Play | None = None, **body: Any) -> Play:
        return (play or Servers(self.serves)).run(self.exchange(timeout_s=timeout_s, **body), *script)

    def fails(self, *script: Any, play: Play | None = None, **body: Any) -> tuple[Play, Exception]:
        """A call that fails: what was asked, and the error."""
        play = play or Servers(self.serves)
        with pytest.raises((ResponseError, ConnectionError, httpx.HTTPError)) as caught:
            self.ask(*script, play=play, **body)
        return play, caught.value

    @property
    def last(self) -> CallRecord:
        return self.watch.ended_[-1]

    @property
    def totals(self) -> Counts:
        return self.made.stats.snapshot()["totals"]

    @property
    def closed(self) -> list[bool]:
        """Whether the circuits of A and B are closed."""
        return [server.breaker.closed for server in self.made.registry.servers]


def asked(played: Play) -> list[str]:
    return [request.url for request in played.requests]


def content(played: Play) -> str:
    return "".join(part["message"]["content"] for part in played.parts)
