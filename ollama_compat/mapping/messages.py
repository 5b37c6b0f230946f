"""Chat history: Ollama's messages as OpenAI's.

Ollama joins consecutive messages of one role with a blank line, tool results excepted (0.33, template/template.go,
`collate`); many chat templates refuse them otherwise. A trailing assistant message is continued. Tool calls come
without ids from the `ollama` client: they get ids by their place, and the results that follow get the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..settings import Profile
from .images import content

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageFunctionToolCallParam

Message = dict[str, Any]

_JOIN = "\n\n"


def begun(
    messages: Sequence[Mapping[str, Any]], profile: Profile, system: str | None = None
) -> list[Mapping[str, Any]]:
    """The messages after what the profile begins with: its system prompt, where they bring none, and its messages."""
    has_system = bool(messages) and messages[0].get("role") == "system"
    system = system or ("" if has_system else profile.system)
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *profile.messages, *messages]


def joined(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Consecutive messages of one role as one message."""
    result: list[Message] = []
    for message in messages:
        last = result[-1] if result else None
        if last is None or last.get("role") != message.get("role") or message.get("role") == "tool":
            result.append(dict(message))
            continue
        last["content"] = (last.get("content") or "") + _JOIN + (message.get("content") or "")
        for key in ("images", "tool_calls"):
            if message.get(key):
                last[key] = [*(last.get(key) or ()), *message[key]]
    return result


def to_openai(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Ollama's messages as OpenAI's, in the same order."""
    result: list[Message] = []
    pending: list[ChatCompletionMessageFunctionToolCallParam] = []  # calls whose results have not come yet
    calls = 0
    for message in messages:
        role = message.get("role", "")
        translated: Message = {
            "role": role,
            "content": content(message.get("content") or "", message.get("images") or ()),
        }
        if message.get("thinking"):
            translated["reasoning"] = message["thinking"]
        if message.get("tool_calls"):
            translated["tool_calls"] = [_call(call, calls + i) for i, call in enumerate(message["tool_calls"])]
            calls += len(message["tool_calls"])
            pending = list(translated["tool_calls"])
        if role == "tool":
            _match_result(translated, message, pending)
        result.append(translated)
    return result


def continues(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is the beginning of the answer."""
    return bool(messages) and messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls")


def _call(call: Mapping[str, Any], number: int) -> ChatCompletionMessageFunctionToolCallParam:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return {
        "id": call.get("id") or f"call_{number:08d}",
        "type": "function",
        "function": {
            "name": function.get("name", ""),
            "arguments": json.dumps(arguments if arguments is not None else {}, ensure_ascii=False),
        },
    }


def _match_result(
    translated: Message, message: Mapping[str, Any], pending: list[ChatCompletionMessageFunctionToolCallParam]
) -> None:
    """A tool result answers the call whose id it has, else the first open call of the tool it names, else the first."""
    call_id, name = message.get("tool_call_id"), message.get("tool_name")
    if name:
        translated["name"] = name
    if call_id:
        answered = next((call for call in pending if call["id"] == call_id), None)
    else:
        of_that_name = (call for call in pending if call["function"]["name"] == name)
        answered = next(of_that_name, pending[0] if pending else None)
    if answered is not None:
        pending.remove(answered)
        call_id = answered["id"]
    if call_id:
        translated["tool_call_id"] = call_id
