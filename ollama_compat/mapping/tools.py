"""Translates tool definitions into OpenAI's, and streamed tool calls into Ollama's.

vLLM streams a tool call in deltas: first its name, then its arguments in fragments of JSON text. Ollama returns a
complete call with its arguments as an object. `ToolCalls` drops a call that is incomplete, that has arguments other
than a JSON object, or that calls an unknown tool, as Ollama does (0.33, tools/tools.go).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..steps import JsonObject
from .vllm_schema import ToolCallDelta

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.shared_params import FunctionDefinition


def offered(tools: Sequence[Mapping[str, Any]]) -> list[ChatCompletionFunctionToolParam]:
    """The OpenAI definitions of Ollama's `tools`, without those that have no function name: vLLM rejects these."""
    payload: list[ChatCompletionFunctionToolParam] = []
    for tool in tools:
        definition = {key: value for key, value in (tool.get("function") or {}).items() if value is not None}
        if definition.get("name"):
            function = cast("FunctionDefinition", definition)
            payload.append({"type": "function", "function": function})
    return payload


def names(tools: Sequence[ChatCompletionFunctionToolParam]) -> frozenset[str]:
    """The names of the functions in `tools`."""
    return frozenset(tool["function"]["name"] for tool in tools)


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class ToolCalls:
    """Assembles tool calls from deltas, and returns each call when it is complete."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """`allowed`: the function names of the request."""
        self._allowed = allowed
        self._open: dict[int, _Call] = {}
        self._count = 0
        self.dropped: list[str] = []
        """The reason for each dropped call, for the log."""

    def feed(self, deltas: Sequence[ToolCallDelta]) -> list[JsonObject]:
        """Add deltas. Returns the completed calls: a call is complete when the next one begins."""
        complete: list[JsonObject] = []
        for delta in deltas:
            if delta.index not in self._open:
                complete += self.finish()
                self._open[delta.index] = _Call()
            call = self._open[delta.index]
            call.id = delta.id or call.id
            if delta.function is not None:
                call.name += delta.function.name or ""
                call.arguments += delta.function.arguments or ""
        return complete

    def finish(self) -> list[JsonObject]:
        """The open calls. Call it at the end of the stream."""
        calls = [part for call in self._open.values() if (part := self._part(call)) is not None]
        self._open.clear()
        return calls

    def _part(self, call: _Call) -> JsonObject | None:
        if call.name not in self._allowed:
            self.dropped.append(f"a call of {call.name!r}, which is not in the request's tools")
            return None
        arguments = parse_arguments(call.arguments)
        if arguments is None:
            self.dropped.append(f"a call of {call.name!r} whose arguments are not a JSON object")
            return None
        index, self._count = self._count, self._count + 1
        return {
            "id": f"call_{call.id[-8:]}" if call.id else f"call_{index:08d}",
            "function": {"index": index, "name": call.name, "arguments": arguments},
        }


def parse_arguments(text: str) -> JsonObject | None:
    """The arguments of a call, also if the JSON text is itself a JSON string. None: `text` is not a JSON object."""
    try:
        value = json.loads(text) if text.strip() else {}
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
