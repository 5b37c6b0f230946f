"""Tools: the offer on the way there, the calls on the way back.

vLLM streams a call as its name and then its arguments in pieces of JSON text; Ollama hands a call over whole, with its
arguments as an object. A call that is cut off, whose arguments are no object, or of a tool that was not offered is
dropped, as Ollama drops it (0.33, tools/tools.go).
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
    """Ollama's tools as OpenAI's: those without a function name, which vLLM refuses, are left out."""
    payload: list[ChatCompletionFunctionToolParam] = []
    for tool in tools:
        given = {key: value for key, value in (tool.get("function") or {}).items() if value is not None}
        if given.get("name"):
            function = cast("FunctionDefinition", given)
            payload.append({"type": "function", "function": function})
    return payload


def names(tools: Sequence[ChatCompletionFunctionToolParam]) -> frozenset[str]:
    """The names of the tools that were offered."""
    return frozenset(tool["function"]["name"] for tool in tools)


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class ToolCalls:
    """Puts streamed tool calls together and hands each on once it is whole."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """`allowed`: the names of the tools that were offered."""
        self._allowed = allowed
        self._open: dict[int, _Call] = {}
        self._count = 0
        self.dropped: list[str] = []
        """Why calls were dropped, for the log."""

    def feed(self, deltas: Sequence[ToolCallDelta]) -> list[JsonObject]:
        """Take pieces in; a call is whole when the next one begins."""
        whole: list[JsonObject] = []
        for delta in deltas:
            if delta.index not in self._open:
                whole += self.finish()
                self._open[delta.index] = _Call()
            call = self._open[delta.index]
            call.id = delta.id or call.id
            if delta.function is not None:
                call.name += delta.function.name or ""
                call.arguments += delta.function.arguments or ""
        return whole

    def finish(self) -> list[JsonObject]:
        """The calls that were still open."""
        calls = [part for call in self._open.values() if (part := self._part(call)) is not None]
        self._open.clear()
        return calls

    def _part(self, call: _Call) -> JsonObject | None:
        if call.name not in self._allowed:
            self.dropped.append(f"a call of {call.name!r}, which was not offered")
            return None
        arguments = parse_arguments(call.arguments)
        if arguments is None:
            self.dropped.append(f"a call of {call.name!r} whose arguments are no JSON object")
            return None
        index, self._count = self._count, self._count + 1
        return {
            "id": f"call_{call.id[-8:]}" if call.id else f"call_{index:08d}",
            "function": {"index": index, "name": call.name, "arguments": arguments},
        }


def parse_arguments(text: str) -> JsonObject | None:
    """The arguments of a call as an object, also where they are JSON inside a JSON string; None: they are no object."""
    try:
        value = json.loads(text) if text.strip() else {}
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
