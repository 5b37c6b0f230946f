"""Assembles the tool calls that vLLM streams.

vLLM streams a call as its name and then its arguments in pieces of JSON text. Ollama returns a call whole, with its
arguments as an object. A call that is cut off, whose arguments are no object, or of a tool that the request does not
offer is dropped, as Ollama drops it (0.33, tools/tools.go).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..mapping.vllm_schema import ToolCallDelta
from ..steps import JsonObject


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class ToolCallAssembler:
    """Assembles streamed tool calls and returns each one when it is complete."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """`allowed`: the names of the offered tools."""
        self._allowed = allowed
        self._open: dict[int, _Call] = {}
        self._count = 0
        self.dropped: list[str] = []
        """Why calls were dropped, for the log."""

    def feed(self, deltas: Sequence[ToolCallDelta]) -> list[JsonObject]:
        """Add pieces. Returns the calls that are complete: a call is when the next one begins."""
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
        """The calls that were still open."""
        if not self._open:
            return []
        calls = [part for call in self._open.values() if (part := self._part(call)) is not None]
        self._open.clear()
        return calls

    def _part(self, call: _Call) -> JsonObject | None:
        if call.name not in self._allowed:
            self.dropped.append(f"a call of {call.name!r}, which the request does not offer")
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
    """The arguments of a call as an object, also if they are JSON inside a JSON string; None: they are no object."""
    try:
        value = json.loads(text) if text.strip() else {}
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
