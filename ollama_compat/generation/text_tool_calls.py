"""Tool calls in the text of an answer, told as Ollama tells them (0.33, tools/tools.go), and handed on as it does.

A call begins at the template's tag; from there on text is held back. It is a call once the name of an offered tool has
been seen and a JSON object is whole: the first one, in which the arguments are looked for. With a tag that is itself
`{` or `[`, only an answer that begins with it has calls. The same text gives the same calls however it is split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..steps import JsonObject, Steps
from .stop_strings import overlap

_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_BRACKETS = {"{": "}", "[": "]"}


@dataclass
class _Brackets:
    """Finds pieces between brackets in a text that grows, those in JSON strings aside."""

    opening: str
    clamped: bool = True
    """Whether a closing bracket that none opened means nothing."""
    at: int = 0
    _start: int = 0
    _depth: int = 0
    _quoted: bool = False

    def piece(self, text: str) -> str | None:
        """The next whole piece; the search goes on where it ended the last time."""
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
    """Takes an answer's text in and gives its content and its calls."""

    def __init__(self, tag: str, names: Collection[str]) -> None:
        """`names`: of the tools that were offered."""
        self._tag = tag
        self._names = sorted(filter(None, names), key=len, reverse=True)
        self._state = "before"
        self._held = ""
        self._count = 0
        self._scan()

    def feed(self, text: str) -> tuple[str, list[JsonObject]]:
        """What `text` adds to the content, and the calls that it completes."""
        content = ""
        calls: list[JsonObject] = []
        for piece in re.split(r"(?<=[}\]])", text):  # a call can only end at a bracket
            content += self._take(piece, calls)
        return content, calls

    def finish(self) -> str:
        """What of the text that was held back is content after all: none, where a tag of its own told it apart."""
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
            if self._tag in _BRACKETS and self._whole.piece(self._held) is not None:  # and it was no call
                self._state = "after"
                content += self._held
                self._held = ""
        return content

    def _call(self) -> JsonObject | None:
        """The next whole call, which is then no longer held."""
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
            self._names = []  # Ollama looks no further either
            return None
        self._held = self._held[max(self._held.find(name) + len(name), self._objects.at - 1) :]
        self._scan()
        index, self._count = self._count, self._count + 1
        return {"id": f"call_{index:08d}", "function": {"index": index, "name": name, "arguments": arguments}}

    def _name(self) -> str | None:
        """The tool that is named first, the longest of those that begin there."""
        places = [(at, -len(name), name) for name in self._names if (at := self._held.find(name)) >= 0]
        return min(places)[2] if places else None

    def _scan(self) -> None:
        """Look for brackets from the beginning of what is held."""
        self._objects = _Brackets("{")
        self._whole = _Brackets(self._tag, clamped=False)


def _parsed(text: str) -> JsonObject | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _arguments(found: JsonObject, name: str) -> JsonObject | None:
    """The arguments in an object that has a call, at any depth; the object itself where it has none. None: it names a
    tool and gives no arguments, which is no call."""
    told, arguments = _searched(found, name)
    return arguments if told else found


def _searched(found: JsonObject, name: str) -> tuple[bool, JsonObject | None]:
    for key in ("arguments", "parameters") if "name" in found else (name,):
        if (inner := _object_in(found.get(key))) is not None:
            return True, inner
    if "name" in found:
        return True, None
    for value in found.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict) and (result := _searched(child, name))[0]:
                return result
    return False, None


def _object_in(value: Any) -> JsonObject | None:
    return _parsed(value) if isinstance(value, str) else (value if isinstance(value, dict) else None)


def with_calls(answer: Steps[None], reader: TextToolCallParser) -> Steps[None]:
    """The parts of a chat's answer with its tool calls told from its text; a call comes in a part of its own."""
    outcome: Any = None
    with closing(answer):
        while True:
            try:
                step = answer.throw(outcome) if isinstance(outcome, Exception) else answer.send(outcome)
            except StopIteration:
                return
            outcome = None
            if isinstance(step, dict) and "message" in step:
                yield from _parts(step, reader)
                continue
            try:
                outcome = yield step
            except Exception as problem:
                outcome = problem


def _parts(part: JsonObject, reader: TextToolCallParser) -> Steps[None]:
    """The part that one becomes: none where all of its text is held back."""
    message, last = part["message"], part.get("done", False)
    content, calls = reader.feed(message.get("content", ""))
    if last:
        content += reader.finish()
    message = {**message, "content": content}
    if calls:
        message["tool_calls"] = [*message.get("tool_calls", ()), *calls]
    if last or content or calls or message.get("thinking") or part.get("logprobs"):
        yield {**part, "message": message}
