"""OpenAI-compatible services other than vLLM, which stand in for it.

The translation writes requests for vLLM. For a provider they are rewritten here by its row of `DIALECTS` (dialects.py):
what it has under another name is renamed, and what it does not have is left out, with a notice of each thing that the
caller said. A path that it does not have is answered here, as a server without it would.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..settings import Provider
from ..steps import JsonObject
from .dialects import CHAT, DIALECTS, Dialect

if TYPE_CHECKING:
    from .adapter import adapt as adapt

CONTEXT = "token ids (the context of its replies is empty)"
CONTINUED = "the beginning of an answer (its models may answer it instead of going on from it)"
THOUGHTS = "the thinking of earlier messages"
SCHEMA_ASKED = "a schema that binds as format (it is asked for, not enforced)"
SCHEMA_TOLD = "a schema as format (it is told in the system prompt, not enforced)"

_KWARGS, _EFFORT = "chat_template_kwargs", "reasoning_effort"

_SWITCHES = frozenset({"enable_thinking", "thinking"})
"""The keys of `chat_template_kwargs` by which the translation switches thinking (operations/thinking.py)."""

_NOBODYS = frozenset(
    {
        *("add_generation_prompt", "return_prompt_text", "stream_interval", "stream_options"),
        *("encoding_format", "truncation_side"),
    }
)
"""What the translation asks of vLLM for its own purposes: nothing of what the caller said is lost with it."""

_NEUTRAL: Mapping[str, float] = {
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "truncate_prompt_tokens": -1,
}
"""Values that ask for nothing: left out, they are not missed."""

SAID: Mapping[str, str] = {
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
    "truncate_prompt_tokens": "num_ctx",
    "response_format": "format",
    "return_token_ids": CONTEXT,
}
"""What the caller calls our keys, where the two differ."""


def dialect_of(provider: Provider) -> Dialect:
    """The row that the settings name, else the one of the provider's host."""
    if provider.dialect is not None:
        return next(row for row in DIALECTS if row.name == provider.dialect)
    host = f".{urlsplit(provider.base_url).hostname or ''}"
    return next((row for row in DIALECTS if any(host.endswith(f".{known}") for known in row.hosts)), DIALECTS[-1])


def adapted(payload: JsonObject, path: str, dialect: Dialect, model: str) -> tuple[JsonObject, tuple[str, ...]]:
    """The request as the provider takes it at `path`, one of its endpoints, and what of the caller's it does not take.

    What is adapted already stays as it is.
    """
    if dialect.everything:
        return {**payload, "model": model}, ()
    kept, lost = _taken(payload, dialect.endpoints[path], dialect, model)
    if path == CHAT:
        thinking, unsaid = _thinking(payload, dialect, model)
        messages, untold = _messages(payload, dialect, model)
        kept, loose = _formatted({**kept, **thinking, "messages": messages}, dialect)
        lost += (*unsaid, *untold, *loose)
    return {**kept, "model": model}, tuple(dict.fromkeys(lost))


def _taken(
    payload: JsonObject, keys: Mapping[str, str], dialect: Dialect, model: str
) -> tuple[JsonObject, tuple[str, ...]]:
    """The keys that the endpoint knows, under its own names; those about thinking are another matter."""
    theirs = {**keys, **{name: name for name in keys.values()}}
    theirs |= {name: name for row in dialect.thinking for name in (*row.on, *(row.off or ())) if name != _EFFORT}
    refused = frozenset().union(*(found for pattern, found in dialect.refused.items() if _fits(pattern, model)))
    kept: JsonObject = {}
    lost: list[str] = []
    for key, value in payload.items():
        if key in (_KWARGS, _EFFORT, "continue_final_message"):
            continue
        name = theirs.get(key)
        most = dialect.limits.get(key)
        if name is None or name in refused:
            lost += [SAID.get(key, key)] if key not in _NOBODYS and value != _NEUTRAL.get(key) else []
        elif name == "stream_options":
            kept[name] = {"include_usage": True}
        elif most is not None and not isinstance(value, bool) and value > most:
            kept[name] = most
            lost.append(f"{SAID.get(key, key)} above {most:g}")
        else:
            kept[name] = value
    return kept, tuple(lost)


def _thinking(payload: JsonObject, dialect: Dialect, model: str) -> tuple[JsonObject, tuple[str, ...]]:
    """What a request says of thinking."""
    kwargs = payload.get(_KWARGS) or {}
    wanted = next((bool(kwargs[key]) for key in _SWITCHES if key in kwargs), None)
    level = payload.get(_EFFORT)
    lost = (_KWARGS,) if kwargs.keys() - _SWITCHES else ()
    switch = next((row for row in dialect.thinking if _fits(row.pattern, model)), None)
    if dialect.replays and switch is not None and _forgotten(payload["messages"], dialect):
        return switch.off or {}, (*lost, "think") if wanted or level else lost
    if wanted is None and level is None:
        return {}, lost
    if switch is None:
        return {}, (*lost, "think")
    if wanted is not False and level is not None:
        return switch.levels.get(level, {_EFFORT: level}), lost
    part = switch.on if wanted else switch.off
    return ({}, (*lost, "think")) if part is None else (part, lost)


def _forgotten(messages: Sequence[JsonObject], dialect: Dialect) -> bool:
    """Whether the history has tool calls without the thoughts that led to them."""
    calls = (message for message in messages if message.get("tool_calls"))
    return any(not (message.get("reasoning") or message.get(dialect.history)) for message in calls)


def _messages(payload: JsonObject, dialect: Dialect, model: str) -> tuple[list[JsonObject], tuple[str, ...]]:
    """The history, in the fields that the provider knows."""
    signed = next((part for pattern, part in dialect.signed.items() if _fits(pattern, model)), {})
    messages = [_message(message, dialect, signed) for message in payload["messages"]]
    lost = []
    if not dialect.history and any(message.get("reasoning") for message in payload["messages"]):
        lost.append(THOUGHTS)
    if payload.get("continue_final_message") and dialect.prefix:
        messages[-1] = {**messages[-1], "prefix": True}
    elif payload.get("continue_final_message"):
        lost.append(CONTINUED)
    return messages, tuple(lost)


def _message(message: JsonObject, dialect: Dialect, signed: JsonObject) -> JsonObject:
    fields = {"role", "content", "tool_calls", "tool_call_id"}
    fields |= {dialect.history} if dialect.history else set()
    fields |= {"name"} if dialect.tool_names else set()
    fields |= {"prefix"} if dialect.prefix else set()
    told = {key: value for key, value in message.items() if key in fields}
    if dialect.history and message.get("reasoning"):
        told[dialect.history] = message["reasoning"]
    if signed and "tool_calls" in told:
        told["tool_calls"] = [{**call, **signed} for call in told["tool_calls"]]
    if dialect.short_ids and "tool_calls" in told:
        told["tool_calls"] = [{**call, "id": _short(call["id"])} for call in told["tool_calls"]]
    if dialect.short_ids and "tool_call_id" in told:
        told["tool_call_id"] = _short(told["tool_call_id"])
    return told


def _short(call_id: str) -> str:
    """An id of nine letters or digits: the same one for the call and for its result."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _formatted(kept: JsonObject, dialect: Dialect) -> tuple[JsonObject, tuple[str, ...]]:
    """`response_format` as far as it is taken. JSON without a schema has to be spoken of in the prompt too: without
    that, DeepSeek, OpenAI and Mistral refuse it or answer with white space."""
    asked = kept.get("response_format") or {}
    if asked.get("type") != "json_schema":
        return kept, ()
    schema = asked["json_schema"]["schema"]
    lost: tuple[str, ...] = ()
    if schema == {"type": "object"}:
        told = "" if any("json" in _text(message).lower() for message in kept["messages"]) else _ANY_OBJECT
    elif dialect.schema == "told":
        told, lost = _BY_SCHEMA.format(json.dumps(schema, ensure_ascii=False)), (SCHEMA_TOLD,)
    else:
        return kept, (SCHEMA_ASKED,) if dialect.schema == "asked" else ()
    messages = _told(kept["messages"], told) if told else kept["messages"]
    return {**kept, "response_format": {"type": "json_object"}, "messages": messages}, lost


_ANY_OBJECT = "Answer with a JSON object and nothing else."
_BY_SCHEMA = "Answer with a JSON object that fits this JSON schema, and nothing else: {}"


def _told(messages: Sequence[JsonObject], text: str) -> list[JsonObject]:
    """The messages, with `text` at the end of the system prompt."""
    if messages and messages[0]["role"] == "system" and _text(messages[0]):
        return [{**messages[0], "content": f"{_text(messages[0])}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _text(message: JsonObject) -> str:
    """The content of a message, where it is text alone."""
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _fits(pattern: str, model: str) -> bool:
    return re.search(pattern, model.lower()) is not None


def __getattr__(name: str) -> object:
    """`adapt` under its former address, until its importers use adapter.py."""
    if name != "adapt":
        raise AttributeError(name)
    from .adapter import adapt

    return adapt
