"""Renders the prompt of a conversation with a Go template, like Ollama 0.33 (template/template.go).

A template that reads `.Messages` receives the whole conversation. An older template, with `.System`, `.Prompt` and
`.Response`, is rendered once for each exchange, and the last time only up to its `.Response`. For a prompt with a
suffix, a template receives `.Prompt` and `.Suffix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from ..mapping.messages import SEPARATOR, joined
from . import BUILTINS, Tree, Value, analysis, ollama_functions, parse, render
from .data import messages_value, tools_value
from .nodes import Action, Field, Pipe

Message = Mapping[str, Any]

_FUNCTIONS = frozenset((*BUILTINS, *ollama_functions(date.min)))
_FIELDS = {"system": "System", "user": "Prompt", "assistant": "Response"}
_NO_EXCHANGE = dict.fromkeys(_FIELDS.values(), "")


@dataclass(frozen=True)
class PromptTemplate:
    """A parsed template, and the properties that Ollama infers from it."""

    text: str
    tree: Tree
    variables: frozenset[str]
    """The names of all fields and variables that it reads, in lower case."""
    thinking_tags: tuple[str, str] | None
    """The opening and the closing tag of thinking text. None: the template has none."""
    call_tag: str
    """The start of a tool call."""

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, think: bool | str | None, today: date
    ) -> str:
        """Render the prompt of a conversation. Raises `TemplateError`.

        `tools` and `think` are those of the request; None: the request has no such field. `today` is the date of
        `currentDate`.
        """
        normalized = [_normalized(message) for message in messages]
        merged = joined(normalized, concatenate=())
        if "messages" not in self.variables:
            return self._render_exchanges(merged, _thinking(think), today)
        data: dict[str, Value] = {
            "System": SEPARATOR.join(message["content"] for message in normalized if message["role"] == "system"),
            "Messages": messages_value(merged),
            "Tools": tools_value(tools),
            "Response": "",
            **_thinking(think),
        }
        return render(self.tree, data, ollama_functions(today))

    def insertion(self, prompt: str, suffix: str, think: bool | str | None, today: date) -> str:
        """Render the prompt for the text between `prompt` and `suffix`. Raises `TemplateError`."""
        data = {"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(think)}
        return render(self.tree, data, ollama_functions(today))

    def _render_exchanges(self, messages: Sequence[Message], thinking: Mapping[str, Value], today: date) -> str:
        exchange = dict(_NO_EXCHANGE)
        text = ""
        for message in messages:
            role, content = message["role"], message["content"]
            later = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(role, ())
            if any(exchange[field] for field in later):  # the message begins a new exchange
                text += render(self.tree, {**exchange, **thinking}, ollama_functions(today))
                exchange = dict(_NO_EXCHANGE)
            if role in _FIELDS:
                exchange[_FIELDS[role]] = content
        return text + render(analysis.until_response(self.tree), {**exchange, **thinking}, ollama_functions(today))


@lru_cache(maxsize=64)
def read(text: str) -> PromptTemplate:
    """Parse a template. Raises `TemplateError`.

    Like Ollama, it appends `{{ .Response }}` to a template that reads neither `.Messages` nor `.Response`.
    """
    tree = parse(text, _FUNCTIONS)
    names = analysis.variables(tree)
    if not names & {"messages", "response"}:
        response = Field(1, ("Response",))
        tree = Tree((*tree.root, Action(1, Pipe(1, (), False, ((response,),)))), tree.defined)
    return PromptTemplate(text, tree, names, analysis.thinking_tags(tree), analysis.call_tag(tree))


def _thinking(think: bool | str | None) -> dict[str, Value]:
    level = think if isinstance(think, str) else ("medium" if think else "")
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _normalized(message: Message) -> Message:
    return {**message, "role": str(message.get("role", "")).lower(), "content": message.get("content") or ""}
