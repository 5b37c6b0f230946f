"""Converts a payload for vLLM into a payload for a provider.

The operations write requests for vLLM. `converted` renames the keys that the provider's dialect (dialects.py) has under
another name, removes the keys that it lacks, and lists the removed parts of the caller's request. `location` converts
the URL. All functions are pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from ..steps import JsonObject
from .dialects import CHAT, Dialect, Switch

CONTEXT = "token ids (the context of its replies is empty)"
CONTINUATION = "continuing the last message (its models may answer that message instead)"
THINKING_HISTORY = "the thinking of earlier messages"
SCHEMA_NOT_ENFORCED = "an enforced schema as format (the schema is requested, not enforced)"
SCHEMA_IN_PROMPT = "a schema as format (the schema is written into the system prompt, not enforced)"

_KWARGS, _EFFORT, _CONTINUE = "chat_template_kwargs", "reasoning_effort", "continue_final_message"

_SWITCHES = frozenset({"enable_thinking", "thinking"})
"""The keys of `chat_template_kwargs` that enable thinking (mapping/model_families.py)."""

_INTERNAL = frozenset(
    {
        *("add_generation_prompt", "return_prompt_text", "stream_interval", "stream_options"),
        *("encoding_format", "truncation_side"),
    }
)
"""Keys that the operations add for their own use: the caller does not lose anything if they are removed."""

_NEUTRAL: Mapping[str, float] = {
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "truncate_prompt_tokens": -1,
}
"""Values without an effect: the caller does not lose anything if they are removed."""

OLLAMA_NAMES: Mapping[str, str] = {
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
    "truncate_prompt_tokens": "num_ctx",
    "response_format": "format",
    "return_token_ids": CONTEXT,
}
"""Ollama's names of our keys, for the keys that have another name there."""

_ANY_OBJECT = "Answer with a JSON object and nothing else."
_BY_SCHEMA = "Answer with a JSON object that fits this JSON schema, and nothing else: {}"


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a dialect has for one endpoint and one model."""

    keys: Mapping[str, str]
    """The accepted keys -> their names. A key that has its provider's name already is accepted, too."""
    switch: Switch | None
    call_fields: JsonObject
    """Fields that each tool call of the history must have."""
    message_fields: frozenset[str]


@lru_cache(maxsize=256)
def _rules(dialect: Dialect, path: str, model: str) -> _Rules:
    def fits(pattern: str) -> bool:
        return re.search(pattern, model.lower()) is not None

    keys = dialect.endpoints[path]
    keys = {**keys, **{name: name for name in keys.values()}}
    keys |= {name: name for row in dialect.thinking for name in (*row.on, *(row.off or ())) if name != _EFFORT}
    refused = frozenset().union(*(names for pattern, names in dialect.refused.items() if fits(pattern)))
    fields = {"role", "content", "tool_calls", "tool_call_id"}
    fields |= {dialect.history} if dialect.history else set()
    fields |= {"name"} if dialect.tool_names else set()
    fields |= {"prefix"} if dialect.prefix else set()
    return _Rules(
        keys={key: name for key, name in keys.items() if name not in refused},
        switch=next((row for row in dialect.thinking if fits(row.pattern)), None),
        call_fields=next((fields for pattern, fields in dialect.signed.items() if fits(pattern)), {}),
        message_fields=frozenset(fields),
    )


def location(base_url: str, path: str, dialect: Dialect) -> tuple[str, str]:
    """Base URL and path of a request. The provider's own prefix replaces the `/v1` of `path`."""
    base = base_url.rstrip("/")
    if not urlsplit(base).path:
        base += dialect.root
    if base.endswith("/v1"):
        return base.removesuffix("/v1"), path
    return base, path if dialect.everything else path.removeprefix("/v1")


def converted(payload: JsonObject, path: str, dialect: Dialect, model: str) -> tuple[JsonObject, tuple[str, ...]]:
    """The payload for the provider's endpoint `path`, and the parts of the caller's request that the provider lacks.

    A converted payload stays as it is.
    """
    if dialect.everything:
        return {**payload, "model": model}, ()
    rules = _rules(dialect, path, model)
    kept, lost = _accepted(payload, dialect, rules)
    if path == CHAT:
        thinking, lost_thinking = _thinking(payload, dialect, rules)
        messages, lost_messages = _messages(payload, dialect, rules)
        kept, lost_format = _format({**kept, **thinking, "messages": messages}, dialect)
        lost += (*lost_thinking, *lost_messages, *lost_format)
    return {**kept, "model": model}, tuple(dict.fromkeys(lost))


def _accepted(payload: JsonObject, dialect: Dialect, rules: _Rules) -> tuple[JsonObject, tuple[str, ...]]:
    """The keys that the endpoint accepts, except those about thinking, under the provider's names."""
    kept: JsonObject = {}
    lost: list[str] = []
    for key, value in payload.items():
        if key in (_KWARGS, _EFFORT, _CONTINUE):
            continue
        name = rules.keys.get(key)
        limit = dialect.limits.get(key)
        if name is None:
            lost += [OLLAMA_NAMES.get(key, key)] if key not in _INTERNAL and value != _NEUTRAL.get(key) else []
        elif name == "stream_options":
            kept[name] = {"include_usage": True}
        elif limit is not None and not isinstance(value, bool) and value > limit:
            kept[name] = limit
            lost.append(f"{OLLAMA_NAMES.get(key, key)} above {limit:g}")
        else:
            kept[name] = value
    return kept, tuple(lost)


def _thinking(payload: JsonObject, dialect: Dialect, rules: _Rules) -> tuple[JsonObject, tuple[str, ...]]:
    """The fields that enable or disable thinking."""
    kwargs = payload.get(_KWARGS) or {}
    enabled = next((bool(kwargs[key]) for key in _SWITCHES if key in kwargs), None)
    level = payload.get(_EFFORT)
    switch = rules.switch
    lost = (_KWARGS,) if kwargs.keys() - _SWITCHES else ()
    if dialect.replays and switch is not None and _thinking_missing(payload["messages"], dialect):
        return switch.off or {}, (*lost, "think") if enabled or level else lost
    if enabled is None and level is None:
        return {}, lost
    if switch is None:
        return {}, (*lost, "think")
    if enabled is not False and level is not None:
        return switch.levels.get(level, {_EFFORT: level}), lost
    fields = switch.on if enabled else switch.off
    return ({}, (*lost, "think")) if fields is None else (fields, lost)


def _thinking_missing(messages: Sequence[JsonObject], dialect: Dialect) -> bool:
    """Whether the history has tool calls without thinking."""
    calls = (message for message in messages if message.get("tool_calls"))
    return any(not (message.get("reasoning") or message.get(dialect.history)) for message in calls)


def _messages(payload: JsonObject, dialect: Dialect, rules: _Rules) -> tuple[list[JsonObject], tuple[str, ...]]:
    """The messages, with the fields that the provider accepts."""
    messages = [_message(message, dialect, rules) for message in payload["messages"]]
    lost = []
    if not dialect.history and any(message.get("reasoning") for message in payload["messages"]):
        lost.append(THINKING_HISTORY)
    if payload.get(_CONTINUE) and dialect.prefix:
        messages[-1] = {**messages[-1], "prefix": True}
    elif payload.get(_CONTINUE):
        lost.append(CONTINUATION)
    return messages, tuple(lost)


def _message(message: JsonObject, dialect: Dialect, rules: _Rules) -> JsonObject:
    kept = {key: value for key, value in message.items() if key in rules.message_fields}
    if dialect.history and message.get("reasoning"):
        kept[dialect.history] = message["reasoning"]
    if rules.call_fields and "tool_calls" in kept:
        kept["tool_calls"] = [{**call, **rules.call_fields} for call in kept["tool_calls"]]
    if dialect.short_ids and "tool_calls" in kept:
        kept["tool_calls"] = [{**call, "id": _short(call["id"])} for call in kept["tool_calls"]]
    if dialect.short_ids and "tool_call_id" in kept:
        kept["tool_call_id"] = _short(kept["tool_call_id"])
    return kept


def _short(call_id: str) -> str:
    """An id of nine letters or digits, the same for a call and its result."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _format(payload: JsonObject, dialect: Dialect) -> tuple[JsonObject, tuple[str, ...]]:
    """The payload with a `response_format` that the provider accepts.

    JSON without a schema must be mentioned in the prompt: without it, DeepSeek, OpenAI and Mistral refuse the request
    or answer with white space.
    """
    requested = payload.get("response_format") or {}
    if requested.get("type") != "json_schema":
        return payload, ()
    schema = requested["json_schema"]["schema"]
    messages = payload["messages"]
    lost: tuple[str, ...] = ()
    if schema == {"type": "object"}:
        if not any("json" in _text(message).lower() for message in messages):
            messages = _instructed(messages, _ANY_OBJECT)
    elif dialect.schema == "prompt":
        messages = _instructed(messages, _BY_SCHEMA.format(json.dumps(schema, ensure_ascii=False)))
        lost = (SCHEMA_IN_PROMPT,)
    else:
        return payload, (SCHEMA_NOT_ENFORCED,) if dialect.schema == "requested" else ()
    return {**payload, "response_format": {"type": "json_object"}, "messages": messages}, lost


def _instructed(messages: Sequence[JsonObject], instruction: str) -> list[JsonObject]:
    """The messages, with an instruction at the end of the system prompt."""
    if messages and messages[0]["role"] == "system" and _text(messages[0]):
        return [{**messages[0], "content": f"{_text(messages[0])}\n\n{instruction}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def _text(message: JsonObject) -> str:
    """The content of a message that is plain text; else an empty string."""
    content = message.get("content")
    return content if isinstance(content, str) else ""
