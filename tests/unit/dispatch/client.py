"""A dispatcher with two fake servers, an observer that records its calls, and the replies that the tests share."""

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

UNREACHABLE = unreachable(A, "smol", "refused")
LOADING = refused("loading", 503)
BOOM = refused("boom", 500)
BUSY = refused("too much to do", 429)
UNAUTHORIZED = reply({"error": "Unauthorized"}, 401)
FROM_OLLAMA = reply({"model": "qwen3:8b", "message": {"role": "assistant", "content": ANSWER}, "done": True})


class RecordingObserver:
    """An observer that records the calls that started and ended."""

    def __init__(self) -> None:
        self.calls_started: list[CallRecord] = []
        self.calls_ended: list[CallRecord] = []

    def started(self, record: CallRecord) -> None:
        self.calls_started.append(record)

    def ended(self, record: CallRecord) -> None:
        self.calls_ended.append(record)

    def after_fork(self) -> RecordingObserver:
        return self


class FakeServers(Play):
    """A `Play` that answers discovery with `serves`. The script and `requests` hold the other requests only."""

    def __init__(self, serves: dict[str, Sequence[str]]) -> None:
        super().__init__()
        self.serves = serves

    def _answer(self, step: Any, lines: Any, events: Any) -> tuple[Any, Any]:
        if isinstance(step, SendAll):
            return [self.model_list(request.base) for request in step.requests], events
        return super()._answer(step, lines, events)

    def model_list(self, base: str) -> Reply | Exception:
        """The reply of a server to `/v1/models`."""
        return reply({"data": [{"id": name} for name in self.serves[base]]})


class Client:
    """A dispatcher with servers A and B, whose models it knows, and the records of its calls."""

    def __init__(self, a: Sequence[str] = ("smol",), b: Sequence[str] = ("smol", "other"), **settings: Any) -> None:
        self.clock, self.observer = StillClock(), RecordingObserver()
        self.serves = {A: a, B: b}
        self.dispatcher = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B), **settings), self.clock)
        self.dispatcher.observers.add(self.observer)
        for server, names in zip(self.dispatcher.registry.servers, (a, b), strict=True):
            server.models, server.listed_at = tuple(ModelCard(name) for name in names), -1

    def steps(self, path: str = "/api/chat", timeout_s: float | None = None, **body: Any) -> Steps[None]:
        request = {"model": "smol", "messages": [{"role": "user", "content": PROMPT}], "prompt": PROMPT, **body}
        steps = self.dispatcher.dispatch(path, request, timeout_s)
        assert steps is not None
        return steps

    def call(self, *script: Any, timeout_s: float | None = None, play: Play | None = None, **body: Any) -> Play:
        return (play or FakeServers(self.serves)).run(self.steps(timeout_s=timeout_s, **body), *script)

    def failing_call(self, *script: Any, play: Play | None = None, **body: Any) -> tuple[Play, Exception]:
        """Run a call that fails. Returns its records and its error."""
        play = play or FakeServers(self.serves)
        with pytest.raises((ResponseError, ConnectionError, httpx.HTTPError)) as caught:
            self.call(*script, play=play, **body)
        return play, caught.value

    @property
    def last(self) -> CallRecord:
        return self.observer.calls_ended[-1]

    @property
    def totals(self) -> Counts:
        return self.dispatcher.stats.snapshot()["totals"]

    @property
    def circuits_closed(self) -> list[bool]:
        """Whether the circuit breakers of A and B are closed."""
        return [server.breaker.closed for server in self.dispatcher.registry.servers]


def urls(played: Play) -> list[str]:
    return [request.url for request in played.requests]


def content(played: Play) -> str:
    return "".join(part["message"]["content"] for part in played.parts)
