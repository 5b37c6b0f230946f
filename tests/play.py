"""Runs the steps of a call without I/O: a script replaces the server, and the requests and parts are recorded.

    played = play(chat(call("/api/chat", {"messages": [...]})), chat_stream("Hel", "lo"))
    played.requests[0].payload, played.parts[-1]

A line of the script is the outcome of one `Send` or `OpenStream`: a `Reply`; a list of events, which opens a stream (an
exception in the list is raised at its `NextEvent`); or an exception, which is raised. A `SendAll` takes one line for
each of its requests. A script with unused lines is an error.

An `AcquireSlot` does not wait: its outcome is whether a slot was free. `Play.rates` holds the outcomes of `TakeToken`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ollama_compat.call import Call, ClientContext
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.servers.server import Server, Target
from ollama_compat.settings import Profile
from ollama_compat.steps import (
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

URL = "http://vllm:8001"
STAMP = "2026-08-21T09:31:20.000000000Z"
SECOND = 1_000_000_000

Event: TypeAlias = bytes | Exception
Line: TypeAlias = Reply | Sequence[Event] | Exception


class FakeClock:
    """A clock that advances by one second each time it is read."""

    def __init__(self) -> None:
        self.now = 0

    def ticks(self) -> int:
        self.now += SECOND
        return self.now

    def stamp(self) -> str:
        return STAMP


class StillClock:
    """A clock that returns the time in `now` (nanoseconds)."""

    def __init__(self) -> None:
        self.now = 0

    def ticks(self) -> int:
        return self.now

    def stamp(self) -> str:
        return STAMP


@dataclass
class Play:
    """One run of steps. The records stay readable after an error."""

    requests: list[Request] = field(default_factory=list)
    parts: list[JsonObject] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    entered: list[float | None] = field(default_factory=list)
    """The longest wait of each `AcquireSlot` (seconds); None: no limit."""
    rates: dict[str, list[float | Exception]] = field(default_factory=dict)
    """The outcomes of `TakeToken` for each operation, in order. After the last one the outcome is 0: admitted."""
    spent: list[str] = field(default_factory=list)
    """The operation of each `TakeToken`."""
    result: Any = None

    def run(self, steps: Steps[Any], *script: Line) -> Play:
        lines: Iterator[Any] = iter(script)
        events: Iterator[Any] = iter(())
        outcome: Outcome | Exception = None
        while True:
            try:
                step = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
            except StopIteration as stop:
                self.result = stop.value
                break
            outcome, events = self._answer(step, lines, events)
        assert list(lines) == [], "the steps ended before the script"
        return self

    def _answer(self, step: Any, lines: Iterator[Line], events: Iterator[Event]) -> tuple[Any, Iterator[Event]]:
        match step:
            case NextEvent():
                return next(events, None), events
            case Sleep(seconds):
                self.sleeps.append(seconds)
                return None, events
            case AcquireSlot(queue, seconds):
                self.entered.append(seconds)
                return queue.green_acquire(blocking=False), events
            case TakeToken(operation):
                self.spent.append(operation)
                answers = self.rates.get(operation)
                return answers.pop(0) if answers else 0.0, events
            case SendAll(requests):
                self.requests += requests
                return [self._line(request, lines) for request in requests], events
            case Send(request) | OpenStream(request):
                self.requests.append(request)
                line = self._line(request, lines)
                return (None, iter(line)) if isinstance(line, list) else (line, events)
        self.parts.append(step)
        return None, events

    def _line(self, request: Request, lines: Iterator[Line]) -> Line:
        line = next(lines, None)
        assert line is not None, f"the script has no line for {request}"
        return line

    @property
    def payload(self) -> JsonObject:
        """The body of the last request."""
        return self.requests[-1].payload or {}

    @property
    def paths(self) -> list[str]:
        """The path of each request, in order."""
        return [request.path for request in self.requests]


def play(steps: Steps[Any], *script: Line) -> Play:
    """Run steps to their end."""
    return Play().run(steps, *script)


def call(
    path: str,
    body: JsonObject | None = None,
    *,
    model: str = "smol",
    card: ModelCard | None = None,
    profile: JsonObject | None = None,
    context: ClientContext | None = None,
) -> Call:
    """A call as the dispatcher creates it."""
    return Call(
        path=path,
        body={"model": model, **(body or {})},
        target=Target(Server(URL), card or ModelCard("smol", max_model_len=2048)),
        profile=Profile.model_validate(profile or {}),
        context=context or ClientContext(FakeClock()),
        started=0,
    )


def reply(document: Any, status: int = 200) -> Reply:
    """A JSON reply."""
    return Reply(status, json.dumps(document).encode())


def refused(message: str, status: int = 400, **fields: Any) -> Reply:
    """An error reply in vLLM's format."""
    return reply({"error": {"message": message, "type": "BadRequestError", "code": status, **fields}}, status)


NO_SUCH_PATH = reply({"detail": "Not Found"}, 404)
MODEL_MISSING = refused("The model `smol` does not exist.", 404, param="model")
TOO_LONG = refused("This model's maximum context length is 2048 tokens.", param="input_tokens")


def event(document: Any) -> bytes:
    """The data of one server-sent event."""
    return json.dumps(document).encode()


def choice(finish: str | None = None, **fields: Any) -> bytes:
    """An event with one choice."""
    return event({"choices": [{"index": 0, "finish_reason": finish, **fields}]})


def delta(finish: str | None = None, **fields: Any) -> bytes:
    """An event of a `/v1/chat/completions` stream."""
    return choice(finish, delta=fields)


def usage(prompt: int = 7, completion: int = 3) -> bytes:
    """The event that carries the token counts."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def chat_stream(*pieces: str, finish: str = "stop") -> list[Event]:
    """A complete `/v1/chat/completions` stream whose answer has these pieces."""
    return [delta(role="assistant", content=""), *(delta(content=piece) for piece in pieces), *_end(delta(finish))]


def completion_stream(*pieces: str, finish: str = "stop") -> list[Event]:
    """A complete `/v1/completions` stream whose answer has these pieces."""
    return [*(choice(text=piece) for piece in pieces), *_end(choice(finish, text=""))]


def _end(last: bytes) -> list[Event]:
    return [last, usage(), b"[DONE]"]


def tokens(*ids: int, strings: Sequence[str] = ()) -> Reply:
    """A reply from `/tokenize`."""
    return reply({"count": len(ids), "tokens": ids, "token_strs": strings, "max_model_len": 2048})
