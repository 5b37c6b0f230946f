"""Separates thinking from the answer in text that arrives in pieces, by the tags around the thinking.

A server without a reasoning parser returns both as one text. If the chat template itself opens the tag, the text begins
inside the thinking. Ollama's rules (0.33, thinking/parser.go): white space after either tag is dropped, and the last
line end of the thinking is kept.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from .stop_strings import overlap

State: TypeAlias = Literal["before", "thinking", "answer"]


class ThinkingParser:
    """Splits text into thinking and answer. The result does not depend on how the text is cut into pieces."""

    def __init__(self, tags: tuple[str, str], *, opened: bool = False) -> None:
        """`opened`: the prompt ends with the opening tag, so that the text begins inside the thinking."""
        self._opening, self._closing = tags
        self._state: State = "thinking" if opened else "before"
        self._held = ""
        self._trim = opened  # white space after a tag is dropped, also if it arrives in the next piece

    @property
    def ended(self) -> bool:
        """Whether all further text is the answer."""
        return self._state == "answer" and not self._trim

    def feed(self, text: str) -> tuple[str, str]:
        """The thinking and the answer that are certain after `text`."""
        text = self._held + text
        self._held = ""
        if self._state == "before":
            text = self._find_opening(text)
        thinking = ""
        if self._state == "thinking":
            thinking, text = self._read_thinking(text)
        if self._state != "answer":
            return thinking, ""
        return thinking, self._trimmed(text)

    def finish(self) -> tuple[str, str]:
        """The thinking and the answer that were undecided when the text ended."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _find_opening(self, text: str) -> str:
        stripped = text.lstrip()
        if stripped.startswith(self._opening):
            self._state, self._trim = "thinking", True
            return stripped[len(self._opening) :]
        if self._opening.startswith(stripped):
            self._held = text
            return ""
        self._state = "answer"
        return text

    def _read_thinking(self, text: str) -> tuple[str, str]:
        text = self._trimmed(text)
        thinking, closing, rest = text.partition(self._closing)
        if closing:
            self._state, self._trim = "answer", True
            return thinking, rest
        keep = overlap(text, self._closing)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""

    def _trimmed(self, text: str) -> str:
        if not self._trim:
            return text
        text = text.lstrip()
        self._trim = not text
        return text
