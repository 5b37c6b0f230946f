"""A chat or a generation whose prompt is made here, by a Go template: of the profile, or of the call itself.

What Ollama does with the template of a model, this does (0.33, server/routes.go, server/prompt.go): the template says
whether there are tools, thoughts and insertion, the prompt is completed raw, and thoughts and calls are told from the
text. The oldest messages go where the conversation does not fit the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar

from ..call import Call
from ..go_template import TemplateError
from ..go_template.prompt import PromptTemplate, read
from ..mapping.errors import lacks, response_error
from ..mapping.model_families import ThinkingParser, thinking_style
from ..steps import JsonObject, Steps
from .completions import Completion, complete, first_token, to_count
from .reader import Fragment, Plan
from .request import Checked, refuse_field
from .text_tool_calls import TextToolCallParser, with_calls
from .thinking_plan import cant_think
from .window import shorten, tokenize

Messages = Sequence[Mapping[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Templated:
    """One call, and the template that makes its prompt."""

    call: Call
    template: PromptTemplate
    checked: Checked
    think: bool | str | None
    """What the template is told."""
    tags: tuple[str, str] | None
    """What thoughts stand between, where the answer may have some."""
    tools: Messages | None = None
    """What is offered; None: the request has no place for tools."""

    def prompt(self, messages: Messages) -> str:
        """The prompt of a conversation. Raises Ollama's 500 where the template can't be rendered."""
        return _rendered(lambda: self.template.prompt(messages, self.tools, self.think, self._today))

    def insertion(self, prompt: str, suffix: str) -> str:
        """The prompt of what comes between two texts."""
        return _rendered(lambda: self.template.insertion(prompt, suffix, self.think, self._today))

    @property
    def _today(self) -> date:
        """UTC's day."""
        return date.fromisoformat(self.call.clock.stamp()[:10])

    def plan(self, prompt: str, render: Callable[[Fragment], JsonObject], *, context: bool) -> Plan:
        """How the answer to the prompt is read. Stop strings cut only the answer, and vLLM would cut thoughts too."""
        checked, tags = self.checked, self.tags
        opened = tags is not None and prompt.rstrip().endswith(tags[0])
        return Plan(
            render=render,
            stops=checked.stops if tags or not checked.server_takes_stops else (),
            splitter=(lambda: ThinkingParser(tags, opened=opened)) if tags else None,
            top_logprobs=checked.top_logprobs,
            context=context,
        )


def template_of(call: Call) -> PromptTemplate | None:
    """The call's own template, else its profile's. Raises Ollama's 500 for one that can't be read."""
    text = call.body.get("template") or call.profile.template
    return _rendered(lambda: read(text)) if text else None


def _rendered(make: Callable[[], T]) -> T:
    try:
        return make()
    except TemplateError as problem:
        raise response_error(f"template: {problem}", 500) from None


def templated(call: Call, template: PromptTemplate, checked: Checked, tools: Messages | None = None) -> Templated:
    """Settle whether the call thinks and may call tools. Raises Ollama's 400 where it asks for what the model can't."""
    if tools and (call.profile.lacks("tools") or not _has(call, template, "tools")):
        raise lacks(call.name, "tools")
    tags, default = _thoughts(call, template)
    think = call.body.get("think")
    if think and tags is None:
        raise cant_think(call)
    if think is None and tags is not None:
        think = default
    if checked.response_format is not None and think:
        think = False  # vLLM's grammar binds from the first token: there is no room for a thought
    return Templated(call, template, checked, think, tags if think else None, tools)


def inserts(call: Call, template: PromptTemplate) -> bool:
    """Whether the template has a place for a suffix."""
    return not call.profile.lacks("insert") and _has(call, template, "suffix")


def _has(call: Call, template: PromptTemplate, variable: str) -> bool:
    """Whether the model's own template, or else the call's, has the variable."""
    return variable in (read(call.profile.template) if call.profile.template else template).variables


def _thoughts(call: Call, template: PromptTemplate) -> tuple[tuple[str, str] | None, bool]:
    """The tags of the model's thoughts, None where it has none, and whether it thinks unasked: by its profile, its own
    template, its family, or else by the template of the call."""
    profile = call.profile
    if profile.lacks("thinking"):
        return None, False
    style = thinking_style(call.served, call.target.card.root, profile.thinking)
    if profile.template:
        default = profile.thinking.default
        return profile.thinking.tags or read(profile.template).thinking_tags, default is not False
    if style is not None and (style.switch or style.default):
        return style.tags, style.default is not False
    return template.thinking_tags, True


def answer(
    talk: Templated, messages: Messages, render: Callable[[Fragment], JsonObject], *, context: bool = False
) -> Steps[None]:
    """Have a conversation answered."""
    call = talk.call
    _refuse_images(messages)
    prompt = talk.prompt(messages)
    fields = yield from first_token(call, prompt, talk.template.text)
    if talk.tools:
        fields = {**fields, "skip_special_tokens": False}  # the tag of a call may be one

    def shorter(limit: int) -> Steps[str]:
        kept = yield from shorten(call, messages, lambda some: to_count(talk.prompt(some), fields), limit)
        return talk.prompt(kept)

    own = not call.body.get("template")  # Ollama shortens no conversation that a call's own template renders
    wanted = Completion(
        prompt, talk.checked, talk.plan(prompt, render, context=context), fields, shorter if own else None
    )
    if call.body.get("context"):
        wanted = yield from _after_context(call, wanted)
    parts = complete(call, wanted)
    yield from (
        with_calls(parts, TextToolCallParser(talk.template.call_tag, _names(talk.tools))) if talk.tools else parts
    )


def insert(talk: Templated, prompt: str, suffix: str, render: Callable[[Fragment], JsonObject]) -> Steps[None]:
    """Have what comes between two texts written."""
    text = talk.insertion(prompt, suffix)
    fields = yield from first_token(talk.call, text, talk.template.text)
    yield from complete(talk.call, Completion(text, talk.checked, talk.plan(text, render, context=True), fields))


def _after_context(call: Call, wanted: Completion) -> Steps[Completion]:
    """The prompt's tokens are put after those of the conversation so far."""
    tokens = yield from tokenize(call, {"prompt": wanted.prompt, "add_special_tokens": False})
    if tokens is None:
        raise refuse_field("context", f"{call.url} has no /tokenize")
    return replace(wanted, prompt=[*call.body["context"], *tokens], shorter=None)


def _refuse_images(messages: Messages) -> None:
    if any(message.get("images") for message in messages):
        raise refuse_field(
            "images with template",
            "a Go template makes a prompt of text; without one the server's chat template shows images",
        )


def _names(tools: Messages) -> list[str]:
    return [str((tool.get("function") or {}).get("name") or "") for tool in tools]
