"""The prompt that Ollama makes of a conversation by a Go template (0.33, template/template.go).

A template that names `.Messages` is given the whole conversation. An older one, with `.System`, `.Prompt` and
`.Response`, is rendered once for each exchange, the last time only up to its `.Response`. A prompt with a suffix is
given as `.Prompt` and `.Suffix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from . import BUILTINS, Tree, Value, ollamas, parse, render
from . import analysis as inferred
from .data import of_messages, of_tools
from .nodes import Action, Field, Pipe

Message = Mapping[str, Any]

_KNOWN = frozenset((*BUILTINS, *ollamas(date.min)))
_JOIN = "\n\n"


@dataclass(frozen=True)
class PromptTemplate:
    """A template that was read, and what Ollama infers from it."""

    text: str
    tree: Tree
    variables: frozenset[str]
    """All names that it reads, in lower case."""
    thinking_tags: tuple[str, str] | None
    call_tag: str
    """What a tool call begins with."""

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, think: bool | str | None, today: date
    ) -> str:
        """The prompt of a conversation. `think`: as in the request; None: not spoken of. Raises `TemplateError`."""
        system, collated = _collated(messages)
        if "messages" not in self.variables:
            return self._by_exchanges(collated, _thinking(think), today)
        data: dict[str, Value] = {
            "System": system,
            "Messages": of_messages(collated),
            "Tools": of_tools(tools),
            "Response": "",
            **_thinking(think),
        }
        return render(self.tree, data, ollamas(today))

    def insertion(self, prompt: str, suffix: str, think: bool | str | None, today: date) -> str:
        """The prompt of what comes between `prompt` and `suffix`. Raises `TemplateError`."""
        data = {"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(think)}
        return render(self.tree, data, ollamas(today))

    def _by_exchanges(self, messages: Sequence[Message], thinking: Mapping[str, Value], today: date) -> str:
        exchange = {"System": "", "Prompt": "", "Response": ""}
        text = ""
        for message in messages:
            role, content = message["role"], message["content"]
            over = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(role, ())
            if any(exchange[name] for name in over):
                text += render(self.tree, {**exchange, **thinking}, ollamas(today))
                exchange = {"System": "", "Prompt": "", "Response": ""}
            if role in _PLACES:
                exchange[_PLACES[role]] = content
        return text + render(inferred.until_response(self.tree), {**exchange, **thinking}, ollamas(today))


_PLACES = {"system": "System", "user": "Prompt", "assistant": "Response"}


@lru_cache(maxsize=64)
def read(text: str) -> PromptTemplate:
    """Read a template. Raises `TemplateError`."""
    tree = parse(text, _KNOWN)
    names = inferred.variables(tree)
    if not names & {"messages", "response"}:
        response = Field(1, ("Response",))
        tree = Tree((*tree.root, Action(1, Pipe(1, (), False, ((response,),)))), tree.defined)
    return PromptTemplate(text, tree, names, inferred.thinking_tags(tree), inferred.call_tag(tree))


def _thinking(think: bool | str | None) -> dict[str, Value]:
    level = think if isinstance(think, str) else ("medium" if think else "")
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _collated(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The system prompts together, and the messages with consecutive ones of one role as one: of those that are joined
    to another, only the content stays."""
    system = []
    collated: list[dict[str, Any]] = []
    for message in messages:
        role, content = str(message.get("role", "")).lower(), message.get("content") or ""
        if role == "system":
            system.append(content)
        if collated and collated[-1]["role"] == role != "tool":
            collated[-1]["content"] += _JOIN + content
        else:
            collated.append({**message, "role": role, "content": content})
    return _JOIN.join(system), list(collated)
