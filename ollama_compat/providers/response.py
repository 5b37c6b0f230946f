"""Converts a provider's replies into the shape of vLLM's replies: the table of normalisations.

vLLM's own replies never pass through this module; mapping/vllm_schema.py reads them as they are. Every row of `SHAPES`
applies to every provider, because gateways return one service's shapes under another service's host. A row changes a
decoded event in place. docs/providers.md has the same rows. All functions are pure; `StreamNormalizer` holds the state
of one stream.
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
    """A `finish_reason` that vLLM does not have."""

    prefix: str
    """Its first characters, in lower case."""
    means: str
    """The `finish_reason` of vLLM that replaces it."""
    warning: str
    """The warning for the log; empty: no warning."""
    source: str


FILTERED = "a reply that its content filter cut off"

FINISHES = (
    Finish("eos", "stop", "", "together 3.1.1, ChatCompletionChunk"),
    Finish(
        "function_call_filter",
        "error",
        "",
        "recorded from Gemini's endpoint, 2026: `function_call_filter: MALFORMED_FUNCTION_CALL`",
    ),
    Finish("model_length", "length", "", "mistralai 3.7.0, ChatCompletionChoice"),
    Finish(
        "content_filter",
        "stop",
        FILTERED,
        "openai-python 3.54; recorded from Gemini's endpoint, 2026: `content_filter: PROHIBITED_CONTENT`",
    ),
)

_KNOWN_FINISHES = frozenset({"stop", "length", "tool_calls", "error", "abort", "insufficient_system_resource"})
"""The values that generation/pipeline.py handles."""

STATUSES = (
    ("tool_use_failed", 500),  # Groq: the model wrote an invalid call, which is not the caller's mistake
    ("context_length", 400),
    ("invalid_api_key", 401),
    ("authentication", 401),
    ("permission", 403),
    ("not_found", 404),
    ("rate_limit", 429),
    ("too_many_requests", 429),
    ("resource_exhausted", 429),
    ("quota", 429),
    ("overloaded", 503),
    ("unavailable", 503),
    ("timeout", 504),
    ("invalid", 400),
)
"""The status of an error event without a number, by a word in its `code`, `type` or `status`. The first match applies.

Sources: openrouter 1.3.84, APIErrorType; the error codes of OpenAI, Groq and DeepSeek; Gemini's `status`; Cerebras'
`too_many_requests_error`.
"""

_DEFAULT_STATUS = 500
_QUOTED = 60
"""The number of characters of an unknown `finish_reason` that the log quotes."""


@dataclass(slots=True)
class _ToolCall:
    """A tool call of which the stream has sent at least a part."""

    number: int
    id: str
    name: str


@dataclass(slots=True)
class StreamNormalizer:
    """Converts the events of one stream."""

    warnings: list[str] = field(default_factory=list)
    """Texts for the log. The reader of the stream removes them."""
    status: int = 200
    """The status that the last event would have as a reply of its own."""
    _calls: dict[int, _ToolCall] = field(default_factory=dict)
    """The latest tool call of each index that the provider sent."""
    _last: _ToolCall | None = None
    _count: int = 0

    def event(self, data: bytes) -> bytes:
        """The data of an event in vLLM's shape.

        Data that the table cannot convert stays as it is: mapping/vllm_schema.py validates it and raises.
        """
        try:
            event = _without_nulls(msgspec.json.decode(data))
            if isinstance(event, list) and len(event) == 1:
                event = event[0]
            for shape in SHAPES:
                shape.read(event, self)
            return msgspec.json.encode(event)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return data

    def call(self, delta: JsonObject) -> _ToolCall:
        """The tool call that a delta belongs to.

        A delta with a name begins a new call if it has another id than the known call, or neither id nor index.
        """
        index, call_id = delta.get("index"), str(delta.get("id", ""))
        name = str(delta["function"].get("name", ""))
        known = self._last if index is None else self._calls.get(index)
        if known is None or (name and (call_id != known.id if call_id else index is None)):
            known, self._count = _ToolCall(self._count, call_id, name), self._count + 1
        elif name == known.name:  # some providers repeat the name in every delta
            delta["function"].pop("name", None)
        self._last = known
        if index is not None:
            self._calls[index] = known
        return known


@dataclass(frozen=True, slots=True)
class Shape:
    """A row of the table of normalisations."""

    received: str
    """What the provider sends."""
    providers: str
    """The providers that send it."""
    becomes: str
    source: str
    read: Callable[[JsonObject, StreamNormalizer], None]
    """Changes a decoded event without nulls in place."""


def _errors(event: JsonObject, stream: StreamNormalizer) -> None:
    error = event.pop("error", None) or (event.get("x_groq") or {}).get("error")
    if not error and not event.keys() & {"choices", "usage", "data", "x_groq"}:
        error = event if event.keys() & {"message", "detail", "errors"} else None
    if error:
        stream.status = error_status(error)
        event["error"] = {"message": error_message(error), "code": stream.status}


def _usage(event: JsonObject, _: StreamNormalizer) -> None:
    holders = ((event.get("x_groq") or {}), *_choices(event))
    found = next((holder["usage"] for holder in holders if isinstance(holder.get("usage"), dict)), None)
    if found is not None:
        event.setdefault("usage", found)


def _content_parts(event: JsonObject, _: StreamNormalizer) -> None:
    for delta in _deltas(event):
        parts = delta.get("content")
        if not isinstance(parts, list):
            continue
        delta["content"] = "".join(_text(part) for part in parts)
        thinking = "".join(_thinking(part) for part in parts)
        if thinking:
            delta["reasoning"] = thinking


def _reasoning_details(event: JsonObject, _: StreamNormalizer) -> None:
    for delta in _deltas(event):
        details = delta.get("reasoning_details")
        if details and not (delta.get("reasoning") or delta.get("reasoning_content")):
            delta["reasoning"] = "".join(_field(part, "text") or _field(part, "summary") for part in details)


def _tool_calls(event: JsonObject, stream: StreamNormalizer) -> None:
    for delta in _deltas(event):
        for call in delta.get("tool_calls") or ():
            function = call.setdefault("function", {})
            if "arguments" in function and not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            call["index"] = stream.call(call).number


def _finish_reasons(event: JsonObject, stream: StreamNormalizer) -> None:
    for choice in _choices(event):
        reason = choice.get("finish_reason")
        if not reason or reason in _KNOWN_FINISHES:
            continue
        row = next((row for row in FINISHES if str(reason).lower().startswith(row.prefix)), None)
        choice["finish_reason"] = "stop" if row is None else row.means
        if row is None:
            stream.warnings.append(f"the unknown finish_reason {str(reason)[:_QUOTED]!r} (it is handled as 'stop')")
        elif row.warning:
            stream.warnings.append(row.warning)


def _logprobs(event: JsonObject, _: StreamNormalizer) -> None:
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
            choice["stop_reason"] = ""  # vLLM's mark of a reply whose last token is text, not an end-of-text token


SHAPES = (
    Shape(
        'an error as text, a list, `{"message"}`, `{"detail"}` or `x_groq.error`; its status as a number or a word',
        "Gemini, Groq, Mistral, OpenRouter",
        "an error with the provider's message and that status",
        "groq 1.7.0, XGroq; openrouter.ai/docs, errors and streaming, 2026; ai.google.dev/gemini-api/docs/openai",
        _errors,
    ),
    Shape(
        "`usage` in `x_groq` or in a choice",
        "Groq, Moonshot",
        "the usage of the event",
        "groq 1.7.0, XGroq; recorded from Moonshot, 2026: earendil-works/pi issue 2017",
        _usage,
    ),
    Shape(
        "`content` as a list of text and thinking parts",
        "Mistral",
        "text and thinking",
        "mistralai 3.7.0, DeltaMessage and ThinkChunk",
        _content_parts,
    ),
    Shape(
        "`reasoning_details` without `reasoning`",
        "OpenRouter",
        "thinking; encrypted details are dropped",
        "openrouter 1.3.84, ChatStreamDelta; openrouter.ai/docs, reasoning tokens, 2026",
        _reasoning_details,
    ),
    Shape(
        "tool calls without an `index`, or all with the same one; arguments as an object; the name in every delta",
        "Gemini, Mistral, MiniMax, gateways",
        "calls that are numbered by their ids and names; arguments as text; one name",
        "recorded from Gemini's endpoint, 2026: THU-MAIC/OpenMAIC issue 1556, QuantumNous/new-api pull request 2701; "
        "mistralai 3.7.0, FunctionCall; recorded from MiniMax, 2026: NousResearch/hermes-agent issue 8259",
        _tool_calls,
    ),
    Shape(
        "a `finish_reason` that vLLM does not have",
        "see below",
        "vLLM's, or `stop` and a warning",
        "the next table",
        _finish_reasons,
    ),
    Shape(
        "log probabilities in the last event that are all of its text; or a number in their place",
        "OpenAI's API; Together",
        "all tokens are returned (vLLM's last one would be an end-of-text token); the number is dropped",
        "openai-python 3.54: `logprobs.content` has only tokens of the message; together 3.1.1, ChatCompletionChunk",
        _logprobs,
    ),
)
"""The rows, in the order in which they apply. The event has no nulls: a field that is null counts as missing."""


def normalized(reply: Reply) -> Reply:
    """An error reply in a shape that mapping/errors.py reads, also if it came with status 200. Else the same reply."""
    try:
        document: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return reply
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict) or (reply.ok and not document.get("error")):
        return reply
    if isinstance(document.get("detail"), str):  # the path does not exist
        return reply
    error = document.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    status = error_status(error) if reply.ok else reply.status
    body = {"error": {"message": error_message(document), "param": param}}
    return Reply(status, json.dumps(body).encode(), reply.retry_after)


def error_message(error: object) -> str:
    """The message of an error, at any depth; empty if it has none."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(text for text in map(error_message, error) if text)
    if not isinstance(error, dict):
        return ""
    keys = ("message", "error", "detail", "errors", "msg")
    return next((text for key in keys if (text := error_message(error.get(key)))), "")


def error_status(error: object) -> int:
    """The HTTP status of an error: its number, else the status of a word in it (`STATUSES`), else 500."""
    if not isinstance(error, dict):
        return _DEFAULT_STATUS
    values = [error[key] for key in ("status_code", "code", "status", "type") if key in error]
    numbers = [int(value) for value in values if str(value).isdecimal() and 400 <= int(value) <= 599]
    if numbers:
        return numbers[0]
    words = " ".join(str(value).lower() for value in values)
    return next((status for word, status in STATUSES if word in words), _DEFAULT_STATUS)


def _choices(event: JsonObject) -> Iterator[JsonObject]:
    return (choice for choice in event.get("choices") or () if isinstance(choice, dict))


def _deltas(event: JsonObject) -> Iterator[JsonObject]:
    return (choice["delta"] for choice in _choices(event) if isinstance(choice.get("delta"), dict))


def _text(part: object) -> str:
    """The text of a part of `content`."""
    return part if isinstance(part, str) else _field(part, "text")


def _thinking(part: object) -> str:
    """The thinking of a part of `content`."""
    inner = part.get("thinking") if isinstance(part, dict) else None
    return "".join(_text(piece) for piece in inner) if isinstance(inner, list) else _field(part, "thinking")


def _field(part: object, name: str) -> str:
    value = part.get(name) if isinstance(part, dict) else None
    return value if isinstance(value, str) else ""


def _without_nulls(value: Any) -> Any:
    """JSON without the fields that are null. Nulls in lists stay: they count as elements."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
