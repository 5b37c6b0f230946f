"""What OpenAI-compatible services answer, in the shape in which vLLM would have said it: the one table of replies.

vLLM's own replies never pass through here: wire.py reads them as they are. A provider's are read loosely, whatever
server is behind it, because gateways put one service's shapes behind another one's host. Each row of `SHAPES` changes
a decoded event in place; docs/providers.md has the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..steps import JsonObject, Reply


@dataclass(frozen=True, slots=True)
class Finish:
    """A `finish_reason` that vLLM does not have. It is known by what it begins with, in lower case."""

    said: str
    means: str
    """vLLM's word for it."""
    told: str
    """What the caller is told in the log; empty: nothing is amiss."""
    source: str


FILTERED = "an answer that its content filter cut off"
_GEMINI = "ai.google.dev/api/generate-content, FinishReason, 2026: its endpoint hands some on as they are"

FINISHES = (
    Finish("eos", "stop", "", "together 3.1.1"),
    Finish(
        "function_call_filter", "error", "", "Gemini's endpoint, 2026: `function_call_filter: MALFORMED_FUNCTION_CALL`"
    ),
    Finish("function_call", "tool_calls", "", "openai-python 3.54"),
    Finish("model_length", "length", "", "mistralai 3.7.0"),
    Finish("max_tokens", "length", "", _GEMINI),
    Finish("malformed_function_call", "error", "", _GEMINI),
    Finish("content_filter", "stop", FILTERED, "openai-python 3.54; Gemini's endpoint adds why"),
    Finish("safety", "stop", FILTERED, _GEMINI),
    Finish("recitation", "stop", FILTERED, _GEMINI),
    Finish("blocklist", "stop", FILTERED, _GEMINI),
    Finish("prohibited_content", "stop", FILTERED, _GEMINI),
    Finish("spii", "stop", FILTERED, _GEMINI),
)

_VLLMS = frozenset({"stop", "length", "tool_calls", "error", "abort", "insufficient_system_resource"})
"""What operations/generation.py knows."""

STATUSES = (
    ("tool_use_failed", 500),  # Groq's: the model, not the caller, wrote a call that is none
    ("context_length", 400),
    ("invalid_api_key", 401),
    ("authentication", 401),
    ("permission", 403),
    ("not_found", 404),
    ("rate_limit", 429),
    ("too_many_requests", 429),
    ("resource_exhausted", 429),
    ("quota", 429),
    ("capacity", 503),
    ("overloaded", 503),
    ("unavailable", 503),
    ("timeout", 504),
    ("invalid", 400),
)
"""The status of an error in a stream that has no number: what its `code`, `type` or `status` has in it."""

_ERROR_STATUS = 500
_SHOWN = 60  # characters of a strange word that the log quotes


@dataclass
class _Call:
    number: int
    id: str
    name: str


@dataclass
class Reading:
    """One stream of a provider's."""

    told: list[str] = field(default_factory=list)
    """What the caller is to be told, for the log."""
    status: int = 200
    """What the status would have been, had the event been a reply."""
    _calls: dict[int, _Call] = field(default_factory=dict)
    """The tool call that is open under each index of theirs."""
    _last: _Call | None = None
    _count: int = 0

    def event(self, data: bytes) -> bytes:
        """The data of an event as vLLM would have sent it. What is odder than the table stays as it is: wire.py, which
        is strict, tells what is wrong with it."""
        try:
            event = _without_nulls(msgspec.json.decode(data))
            if isinstance(event, list) and len(event) == 1:
                event = event[0]
            for shape in SHAPES:
                shape.read(event, self)
            return msgspec.json.encode(event)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return data

    def call(self, delta: JsonObject) -> _Call:
        """The tool call that a delta belongs to. A name with another id, or without any index, begins a new one."""
        index, own = delta.get("index"), str(delta.get("id", ""))
        name = str(delta["function"].get("name", ""))
        known = self._last if index is None else self._calls.get(index)
        if known is None or (name and (own != known.id if own else index is None)):
            known, self._count = _Call(self._count, own, name), self._count + 1
        elif name == known.name:  # said again with each piece
            delta["function"].pop("name", None)
        self._last = known
        if index is not None:
            self._calls[index] = known
        return known


@dataclass(frozen=True, slots=True)
class Shape:
    """A row of the table."""

    what: str
    who: str
    becomes: str
    source: str
    read: Callable[[JsonObject, Reading], None]
    """Changes a decoded event, from which every null is gone."""


def _errors(event: JsonObject, reading: Reading) -> None:
    error = event.pop("error", None) or (event.get("x_groq") or {}).get("error")
    if not error and not event.keys() & {"choices", "usage", "data", "x_groq"}:
        error = event if event.keys() & {"message", "detail", "errors"} else None
    if error:
        reading.status = status_of(error)
        event["error"] = {"message": said(error), "code": reading.status}


def _usage(event: JsonObject, _: Reading) -> None:
    places = ((event.get("x_groq") or {}), *_choices(event))
    found = next((place["usage"] for place in places if isinstance(place.get("usage"), dict)), None)
    if found is not None:
        event.setdefault("usage", found)


def _content(event: JsonObject, _: Reading) -> None:
    for delta in _deltas(event):
        parts = delta.get("content")
        if not isinstance(parts, list):
            continue
        delta["content"] = "".join(_text(part) for part in parts)
        thoughts = "".join(_thought(part) for part in parts)
        if thoughts:
            delta["reasoning"] = thoughts


def _details(event: JsonObject, _: Reading) -> None:
    for delta in _deltas(event):
        details = delta.get("reasoning_details")
        if details and not (delta.get("reasoning") or delta.get("reasoning_content")):
            delta["reasoning"] = "".join(_field(part, "text") or _field(part, "summary") for part in details)


def _tool_calls(event: JsonObject, reading: Reading) -> None:
    for delta in _deltas(event):
        for piece in delta.get("tool_calls") or ():
            function = piece.setdefault("function", {})
            if "arguments" in function and not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            piece["index"] = reading.call(piece).number


def _finish(event: JsonObject, reading: Reading) -> None:
    for choice in _choices(event):
        theirs = choice.get("finish_reason")
        if not theirs or theirs in _VLLMS:
            continue
        row = next((row for row in FINISHES if str(theirs).lower().startswith(row.said)), None)
        choice["finish_reason"] = "stop" if row is None else row.means
        unknown = f"a finish_reason {str(theirs)[:_SHOWN]!r} that nobody knows (it is taken for 'stop')"
        told = unknown if row is None else row.told
        reading.told += [told] if told else []


def _last_token(event: JsonObject, _: Reading) -> None:
    for choice in _choices(event):
        logprobs = choice.get("logprobs")
        if not isinstance(logprobs, dict):
            choice.pop("logprobs", None)
            continue
        if not choice.get("finish_reason"):
            continue
        tokens = [token.get("token") for token in logprobs.get("content") or ()] or logprobs.get("tokens") or ()
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        if tokens and tokens[-1] and text.endswith(tokens[-1]):
            choice["stop_reason"] = ""  # as where a stop string ends vLLM's answer: each token shown is of the text


SHAPES = (
    Shape(
        'an error as text, a list, `{"message"}`, `{"detail"}` or `x_groq.error`, its status a number or a word',
        "Gemini, Groq, Mistral, OpenRouter",
        "an error with the provider's words and that status",
        "groq 1.7.0, XGroq; openrouter.ai/docs, errors and streaming, 2026; ai.google.dev/gemini-api/docs/openai",
        _errors,
    ),
    Shape(
        "`usage` in `x_groq` or in a choice",
        "Groq, Moonshot",
        "the usage of the event",
        "groq 1.7.0, XGroq; Moonshot's documents as northes/go-moonshot issue 17 quotes them",
        _usage,
    ),
    Shape(
        "`content` as a list of parts, thoughts among them",
        "Mistral",
        "text and thoughts",
        "mistralai 3.7.0, DeltaMessage and ThinkChunk",
        _content,
    ),
    Shape(
        "`reasoning_details` alone",
        "OpenRouter",
        "thoughts; what is encrypted is left out",
        "openrouter.ai/docs, reasoning tokens, 2026",
        _details,
    ),
    Shape(
        "tool calls without an `index`, or with the same one for all; arguments as an object; a name said again",
        "Gemini, gateways",
        "calls that are numbered, by their ids and names",
        "recorded of Gemini's endpoint, 2026: THU-MAIC/OpenMAIC issue 1556, QuantumNous/new-api pull request 2701",
        _tool_calls,
    ),
    Shape(
        "a `finish_reason` of the provider's own",
        "see below",
        "vLLM's, or `stop` and a warning",
        "the table of these",
        _finish,
    ),
    Shape(
        "a last event that ends the answer and has log probabilities of its text; or a number in place of them",
        "services that end an answer with its last piece; Together",
        "all of its tokens are shown: vLLM's last one would be the end-of-text; the number is left out",
        "openai-python 3.54: `logprobs.content` has the message's tokens alone; together 3.1.1, ChatCompletionChunk",
        _last_token,
    ),
)
"""In the order in which they are read. Nulls are gone before, so a field that is null is one that is not there."""


def refused(reply: Reply) -> Reply:
    """A refusal in a shape that errors.py reads, also where it came as a reply with status 200."""
    try:
        document: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return reply
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict) or (reply.ok and not document.get("error")):
        return reply
    if isinstance(document.get("detail"), str):  # a path that is not there
        return reply
    error = document.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    status = status_of(error) if reply.ok else reply.status
    body = {"error": {"message": said(document), "param": param}}
    return Reply(status, json.dumps(body).encode(), reply.retry_after)


def said(error: object) -> str:
    """The words of an error, wherever they stand in it."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(text for text in map(said, error) if text)
    if not isinstance(error, dict):
        return ""
    keys = ("message", "error", "detail", "errors", "msg")
    return next((text for key in keys if (text := said(error.get(key)))), "")


def status_of(error: object) -> int:
    """The status that an error of a stream would have had as a reply."""
    if not isinstance(error, dict):
        return _ERROR_STATUS
    named = [error[key] for key in ("status_code", "code", "status", "type") if key in error]
    numbers = [int(name) for name in named if str(name).isdecimal() and 400 <= int(name) <= 599]
    if numbers:
        return numbers[0]
    words = " ".join(str(name).lower() for name in named)
    return next((status for word, status in STATUSES if word in words), _ERROR_STATUS)


def _choices(event: JsonObject) -> Iterator[JsonObject]:
    return (choice for choice in event.get("choices") or () if isinstance(choice, dict))


def _deltas(event: JsonObject) -> Iterator[JsonObject]:
    return (choice["delta"] for choice in _choices(event) if isinstance(choice.get("delta"), dict))


def _text(part: object) -> str:
    """The text of a part of `content`."""
    return part if isinstance(part, str) else _field(part, "text")


def _thought(part: object) -> str:
    """The thoughts of a part of `content`."""
    inner = part.get("thinking") if isinstance(part, dict) else None
    return "".join(_text(piece) for piece in inner) if isinstance(inner, list) else _field(part, "thinking")


def _field(part: object, name: str) -> str:
    value = part.get(name) if isinstance(part, dict) else None
    return value if isinstance(value, str) else ""


def _without_nulls(value: Any) -> Any:
    """JSON without the fields that are null. In a list, a null has a place of its own."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
