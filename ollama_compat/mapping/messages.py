"""Translates Ollama's messages into OpenAI's.

Ollama joins consecutive messages of one role with a blank line, except tool results (0.33, template/template.go,
`collate`). Many chat templates reject consecutive messages of one role. The model continues a trailing assistant
message. The `ollama` client sends tool calls without ids, so each call gets an id from its position, and the tool
result that answers it gets the same id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .images import content

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageFunctionToolCallParam

Message = dict[str, Any]

SEPARATOR = "\n\n"
"""The text between two joined messages."""


class Prologue(Protocol):
    """The start of every conversation with a model. A profile from the settings implements it."""

    @property
    def system(self) -> str | None:
        """The system prompt for a conversation that has none."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages that follow the system prompt."""


def begun(
    messages: Sequence[Mapping[str, Any]], profile: Prologue, system: str | None = None
) -> list[Mapping[str, Any]]:
    """`messages` after the profile's system prompt and messages.

    `system` replaces the profile's system prompt. Without it, the profile's system prompt is left out if `messages`
    begin with one.
    """
    has_system = bool(messages) and messages[0].get("role") == "system"
    system = system or ("" if has_system else profile.system)
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *profile.messages, *messages]


def joined(
    messages: Sequence[Mapping[str, Any]], *, concatenate: Sequence[str] = ("images", "tool_calls")
) -> list[Message]:
    """Copies of `messages`, with consecutive messages of one role joined into one. Tool results remain separate.

    A joined message has the fields of the first message, the contents of all, and the items of all in the list fields
    `concatenate`.
    """
    result: list[Message] = []
    for message in messages:
        last = result[-1] if result else None
        if last is None or last.get("role") != message.get("role") or message.get("role") == "tool":
            result.append(dict(message))
            continue
        last["content"] = (last.get("content") or "") + SEPARATOR + (message.get("content") or "")
        for key in concatenate:
            if message.get(key):
                last[key] = [*(last.get(key) or ()), *message[key]]
    return result


def to_openai(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The OpenAI messages for `messages`, in order. Raises `ResponseError` 400 for an image that is not base64."""
    result: list[Message] = []
    pending: list[ChatCompletionMessageFunctionToolCallParam] = []  # calls without a result so far
    calls = 0
    for message in messages:
        role = message.get("role", "")
        text, images = message.get("content") or "", message.get("images")
        translated: Message = {"role": role, "content": content(text, images) if images else text}
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
    """Whether the last message is the start of the answer: an assistant message without tool calls."""
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
    """Set the call id of a tool result, and remove that call from `pending`.

    The result answers the call with its id; without an id, the first pending call of the tool that it names; otherwise
    the first pending call.
    """
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
