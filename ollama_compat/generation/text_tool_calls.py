"""Finds tool calls in the text of an answer by Ollama's rules (0.33, tools/tools.go), for prompts of a Go template.

A call begins at the template's tag; from there on the parser holds text back. It is a call when the text has the name
of an offered tool and a complete JSON object: the first one, which has the arguments. If the tag itself is `{` or `[`,
only an answer that begins with it has calls. The result does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..steps import JsonObject
from .stop_strings import overlap

_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_BRACKETS = {"{": "}", "[": "]"}


@dataclass
class _Brackets:
    """Finds pieces between brackets in a growing text; brackets in JSON strings do not count."""

    opening: str
    clamped: bool = True
    """Whether a closing bracket without an opening one is ignored."""
    at: int = 0
    _start: int = 0
    _depth: int = 0
    _quoted: bool = False

    def piece(self, text: str) -> str | None:
        """The next complete piece. The search continues where the last one ended."""
        for mark in _MARKS.finditer(text, self.at):
            self.at = mark.end()
            if mark[0] == '"':
                self._quoted = not self._quoted
            elif self._quoted:
                continue
            elif mark[0] == self.opening:
                self._start = self._start if self._depth else mark.start()
                self._depth += 1
            elif mark[0] == _BRACKETS[self.opening]:
                self._depth -= 1
                if self._depth == 0:
                    return text[self._start : self.at]
                self._depth = max(self._depth, 0) if self.clamped else self._depth
        return None


class TextToolCallParser:
    """Splits the text of an answer into content and tool calls."""

    def __init__(self, tag: str, names: Collection[str]) -> None:
        """`tag`: what begins a call; `names`: the names of the offered tools."""
        self._tag = tag
        self._names = sorted(filter(None, names), key=len, reverse=True)
        self._state = "before"
        self._held = ""
        self._count = 0
        self._scan()

    def feed(self, text: str) -> tuple[str, list[JsonObject]]:
        """The content that is certain after `text`, and the calls that it completes."""
        content = ""
        calls: list[JsonObject] = []
        for piece in re.split(r"(?<=[}\]])", text):  # a call can only end at a bracket
            content += self._take(piece, calls)
        return content, calls

    def finish(self) -> str:
        """The held-back text that is content: none after a tag other than a bracket."""
        held, self._held = self._held, ""
        return held if self._state == "before" or (self._tag in _BRACKETS and not self._count) else ""

    def _take(self, piece: str, calls: list[JsonObject]) -> str:
        if self._state == "after":
            return piece
        self._held += piece
        content = ""
        if self._state == "before":
            at = self._held.find(self._tag)
            found = at >= 0
            at = at if found else len(self._held) - overlap(self._held, self._tag)
            content, self._held = self._held[:at], self._held[at:]
            if self._tag in _BRACKETS and content.strip():
                self._state = "after"
                content += self._held
                self._held = ""
            if not found or self._state == "after":
                return content
            self._state = "calling"
        if piece.endswith(("}", "]")):
            while (call := self._call()) is not None:
                calls.append(call)
            if self._tag in _BRACKETS and self._whole.piece(self._held) is not None:  # and it is no call
                self._state = "after"
                content += self._held
                self._held = ""
        return content

    def _call(self) -> JsonObject | None:
        """The next complete call, which is then no longer held back."""
        name = self._name()
        if name is None:
            return None
        while (text := self._objects.piece(self._held)) is not None:
            if (found := _parsed(text)) is not None:
                break
        else:
            return None
        arguments = _arguments(found, name)
        if arguments is None:
            self._names = []  # Ollama stops here too
            return None
        self._held = self._held[max(self._held.find(name) + len(name), self._objects.at - 1) :]
        self._scan()
        index, self._count = self._count, self._count + 1
        return {"id": f"call_{index:08d}", "function": {"index": index, "name": name, "arguments": arguments}}

    def _name(self) -> str | None:
        """The tool that the text names first; of several at one position, the longest name."""
        places = [(at, -len(name), name) for name in self._names if (at := self._held.find(name)) >= 0]
        return min(places)[2] if places else None

    def _scan(self) -> None:
        """Search for brackets from the beginning of the held text."""
        self._objects = _Brackets("{")
        self._whole = _Brackets(self._tag, clamped=False)


def _parsed(text: str) -> JsonObject | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _arguments(found: JsonObject, name: str) -> JsonObject | None:
    """The arguments in an object that holds a call, at any depth, or the object itself if it holds none.

    None: the object names a tool without arguments, which is no call.
    """
    holds_call, arguments = _search(found, name)
    return arguments if holds_call else found


def _search(found: JsonObject, name: str) -> tuple[bool, JsonObject | None]:
    for key in ("arguments", "parameters") if "name" in found else (name,):
        if (inner := _object_in(found.get(key))) is not None:
            return True, inner
    if "name" in found:
        return True, None
    for value in found.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict) and (result := _search(child, name))[0]:
                return result
    return False, None


def _object_in(value: Any) -> JsonObject | None:
    return _parsed(value) if isinstance(value, str) else (value if isinstance(value, dict) else None)
