"""Thinking: how a model family switches it, and how thoughts are told from the answer.

`FAMILIES` is the one table of model families. A server with a `--reasoning-parser` sends thoughts in a field of their
own; without one they stand in the text between tags, and where the chat template itself opened the tag, the text
begins in the middle of a thought. Ollama's rules (0.33, thinking/parser.go): white space after either tag is dropped,
the thought's own last line end is kept.

Sources of the table: the models' cards and chat templates; vLLM's documentation of reasoning outputs (0.32).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..generation.stop_strings import overlap
from ..settings import Thinking
from .errors import response_error

THINK_TAGS = ("<think>", "</think>")

LEVELS = ("high", "medium", "low", "max")


@dataclass(frozen=True, slots=True)
class ThinkingStyle:
    """How a model thinks."""

    default: bool | None = None
    """What an unset `think` means; None: what the server does on its own."""
    switch: str | None = None
    """The key in `chat_template_kwargs`; None: there is no switch."""
    levels: bool = False
    """Whether the model knows levels (`reasoning_effort`)."""
    tags: tuple[str, str] = THINK_TAGS


UNKNOWN = ThinkingStyle(None, "enable_thinking")
"""A model that no row and no profile speaks of: the key that most templates read."""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: `pattern` is looked for in the served name and in its root, in lower case."""

    name: str
    pattern: str
    style: ThinkingStyle


FAMILIES = (
    Family("EXAONE Deep", r"exaone-?deep", ThinkingStyle(True, tags=("<thought>", "</thought>"))),
    Family("EXAONE 4", r"exaone-?4", ThinkingStyle(False, "enable_thinking")),
    Family("DeepSeek R1", r"deepseek-?r1", ThinkingStyle(True)),
    Family("Qwen 3 Coder", r"qwen3.*coder", ThinkingStyle(False)),
    Family("Qwen 3 Instruct 2507", r"qwen3.*instruct", ThinkingStyle(False)),
    Family("Qwen 3 Thinking 2507, QwQ", r"qwen3.*thinking|qwq", ThinkingStyle(True)),
    Family("Qwen 3", r"qwen-?3", ThinkingStyle(True, "enable_thinking")),
    Family("DeepSeek V3.1 and later", r"deepseek-v(3[.-]?[1-9]|[4-9])", ThinkingStyle(True, "thinking")),
    Family("GPT-OSS", r"gpt-?oss", ThinkingStyle(True, None, levels=True)),
    Family("Granite 3.2 and 3.3", r"granite-3\.[23]", ThinkingStyle(True, "thinking")),
    Family("GLM 4.5 and later", r"glm-(4\.[5-9]|[5-9])", ThinkingStyle(True, "enable_thinking")),
    Family("Magistral", r"magistral", ThinkingStyle(True, tags=("[THINK]", "[/THINK]"))),
)


def thinking_style(served: str, root: str | None, profile: Thinking) -> ThinkingStyle | None:
    """How the served model thinks: its profile's word over its family's; None when nobody knows."""
    names = f"{served}\n{root or ''}".lower()
    family = next((row.style for row in FAMILIES if re.search(row.pattern, names)), None)
    if profile == Thinking():
        return family
    style = family or ThinkingStyle()
    if profile.default is not None:
        style = replace(style, default=profile.default)
    if profile.switch is not None:
        style = replace(style, switch=profile.switch)
    return style if profile.tags is None else replace(style, tags=profile.tags)


def check(think: Any) -> None:
    """Refuse a `think` that Ollama refuses, in its words."""
    if think is None or isinstance(think, bool) or think in LEVELS:
        return
    allowed = ", ".join(f'"{level}"' for level in LEVELS)
    if isinstance(think, str):
        raise response_error(f'invalid think value: "{think}" (must be {allowed}, true, or false)', 400)
    raise response_error(f"think must be a boolean or string ({allowed}, true, or false)", 400)


def thinking_fields(
    style: ThinkingStyle, think: bool | str | None, kwargs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a request says to turn thinking on or off: `chat_template_kwargs` (over `kwargs`), `reasoning_effort`."""
    wanted = style.default if think is None else think
    payload: dict[str, Any] = {"chat_template_kwargs": dict(kwargs)} if kwargs else {}
    if wanted is None:
        return payload
    if style.switch:
        payload["chat_template_kwargs"] = {**(kwargs or {}), style.switch: bool(wanted)}
    if isinstance(wanted, str) and wanted in LEVELS:
        payload["reasoning_effort"] = "high" if wanted == "max" and style.levels else wanted
    elif style.levels and wanted is False:
        payload["reasoning_effort"] = "low"  # the least such a model can do
    return payload


class ThinkingParser:
    """Tells thoughts from the answer in text that comes in pieces, by their tags."""

    def __init__(self, tags: tuple[str, str], *, opened: bool = False) -> None:
        """`opened`: the prompt ended with the opening tag, so the text begins inside a thought."""
        self._open, self._close = tags
        self._state = "thinking" if opened else "before"
        self._held = ""
        self._trim = opened  # white space after a tag is dropped, also where it comes in the next piece

    def feed(self, text: str) -> tuple[str, str]:
        """The thought and the answer that `text` settles."""
        text = self._held + text
        self._held = ""
        if self._state == "before":
            text = self._look_for_opening(text)
        thought = ""
        if self._state == "thinking":
            thought, text = self._think(text)
        if self._state != "answer":
            return thought, ""
        return thought, self._trimmed(text)

    def finish(self) -> tuple[str, str]:
        """The thought and the answer that were still undecided when the text ended."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _look_for_opening(self, text: str) -> str:
        stripped = text.lstrip()
        if stripped.startswith(self._open):
            self._state, self._trim = "thinking", True
            return stripped[len(self._open) :]
        if self._open.startswith(stripped):
            self._held = text
            return ""
        self._state = "answer"
        return text

    def _think(self, text: str) -> tuple[str, str]:
        text = self._trimmed(text)
        thought, closed, rest = text.partition(self._close)
        if closed:
            self._state, self._trim = "answer", True
            return thought, rest
        keep = overlap(text, self._close)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""

    def _trimmed(self, text: str) -> str:
        if not self._trim:
            return text
        text = text.lstrip()
        self._trim = not text
        return text
