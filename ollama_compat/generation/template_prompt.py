"""Prompts that a Go template renders: the template of a profile, or of the call itself.

This does what Ollama does with a model's template (0.33, server/routes.go, server/prompt.go): the template says whether
the model supports tools, thinking and insertion; vLLM completes the rendered text; thinking and tool calls are part of
the text of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, TypeVar

from ..call import Call
from ..go_template import TemplateError
from ..go_template.prompt import PromptTemplate, read
from ..mapping.ollama_errors import lacks, response_error
from ..steps import JsonObject, Steps
from .prompts import TokenPrompt, after_context, text_fits
from .protocol import COMPLETIONS_PATH, Messages, Prompt
from .reader import PartField, ReplyFormat
from .request import GenerationRequest, unavailable
from .thinking_plan import NO_THINKING, ThinkingPlan, cannot_think, style_of
from .window import tokenize, without_oldest

T = TypeVar("T")
Tools = Sequence[Mapping[str, Any]]

_MARKER = re.compile(r"<[^<>\s]{1,40}>|\[[A-Z_]{1,40}\]")  # the text of a model's first token


@dataclass(frozen=True, slots=True)
class Renderer:
    """A template with what it renders for one call besides the messages."""

    call: Call
    template: PromptTemplate
    think: bool | str | None
    """The value of `.Think`; None: not set."""
    tools: Tools | None
    """The offered tools; None: the endpoint has none."""

    def conversation(self, messages: Messages) -> str:
        """The prompt of a conversation. Raises Ollama's 500 for a template that cannot be rendered."""
        return _rendered(lambda: self.template.prompt(messages, self.tools, self.think, self._today()))

    def insertion(self, prompt: str, suffix: str) -> str:
        """The prompt for the text between two texts. Raises Ollama's 500 likewise."""
        return _rendered(lambda: self.template.insertion(prompt, suffix, self.think, self._today()))

    def _today(self) -> date:
        """The day in UTC."""
        return date.fromisoformat(self.call.context.clock.stamp()[:10])


@dataclass(frozen=True, slots=True)
class TemplatePrompt:
    """A conversation that a Go template renders; without messages, a text that it has rendered."""

    text: str
    reply: ReplyFormat
    request_fields: JsonObject = field(default_factory=dict)
    """Further fields of the request."""
    messages: Messages = ()
    renderer: Renderer | None = None
    """Renders fewer messages; None: the prompt can only be cut."""
    path: str = COMPLETIONS_PATH
    can_be_cut: bool = True

    @property
    def droppable(self) -> int:
        """All messages but the last."""
        return len(self.messages) - 1 if self.renderer is not None else 0

    def fields(self) -> JsonObject:
        """The rendered text."""
        return {"prompt": self.text, **self.request_fields}

    def countable(self) -> JsonObject:
        """The rendered text, with or without the model's first token as the request sends it."""
        kept = {key: value for key, value in self.request_fields.items() if key == "add_special_tokens"}
        return {"prompt": self.text, **kept}

    def surely_fits(self, limit: int) -> bool:
        """Whether the text has fewer bytes than `limit`."""
        return text_fits(self.text, limit)

    def without_oldest(self, number: int, /) -> TemplatePrompt:
        """The prompt of the conversation without its oldest messages."""
        if self.renderer is None:
            return self
        messages = without_oldest(self.messages, number)
        return replace(self, text=self.renderer.conversation(messages), messages=messages)

    def cut(self, tokens: list[int]) -> TokenPrompt:
        """The tokens that are left."""
        return TokenPrompt(tokens, self.reply, self.request_fields)


def template_of(call: Call) -> PromptTemplate | None:
    """The call's own template, else its profile's. Raises Ollama's 500 for one that cannot be parsed."""
    text = call.body.get("template") or call.profile.template
    return _rendered(lambda: read(text)) if text else None


def inserts(call: Call, template: PromptTemplate) -> bool:
    """Whether the template has a place for a suffix."""
    return not call.profile.lacks("insert") and _reads(call, template, "suffix")


def conversation_prompt(
    call: Call,
    template: PromptTemplate,
    request: GenerationRequest,
    messages: Messages,
    tools: Tools | None,
    part_field: PartField,
) -> Steps[Prompt]:
    """The prompt of a conversation, after the `context` of the call if it has one."""
    renderer, tags = _renderer(call, template, request, tools)
    if any(message.get("images") for message in messages):
        raise unavailable(
            "images with template",
            "a Go template renders text; without one the chat template of the server renders images",
        )
    text = renderer.conversation(messages)
    fields = yield from _without_second_first_token(call, text, template.text)
    reply = _reply(request, text, tags, part_field)
    if tools:
        fields["skip_special_tokens"] = False  # the tag of a tool call may be a special token
        names = tuple(str((tool.get("function") or {}).get("name") or "") for tool in tools)
        reply = replace(reply, text_tools=names, tool_tag=template.call_tag)
    if call.body.get("context"):
        return (yield from after_context(call, {"prompt": text, "add_special_tokens": False}, reply, fields))
    # Ollama drops no messages of a conversation that a call's own template renders.
    may_drop = not call.body.get("template")
    return TemplatePrompt(text, reply, fields, messages, renderer if may_drop else None)


def insertion_prompt(
    call: Call, template: PromptTemplate, request: GenerationRequest, prompt: str, suffix: str
) -> Steps[Prompt]:
    """The prompt for the text between two texts."""
    renderer, tags = _renderer(call, template, request, None)
    text = renderer.insertion(prompt, suffix)
    fields = yield from _without_second_first_token(call, text, template.text)
    return TemplatePrompt(text, _reply(request, text, tags, "response"), fields)


def _reply(request: GenerationRequest, text: str, tags: tuple[str, str] | None, part_field: PartField) -> ReplyFormat:
    thinking = NO_THINKING
    if tags is not None:
        thinking = ThinkingPlan(parse=True, opened=text.rstrip().endswith(tags[0]), tags=tags)
    return ReplyFormat(
        part_field,
        thinking,
        client_stops=request.client_stops(thinking=tags is not None),
        top_logprobs=request.top_logprobs,
        context=part_field == "response",
    )


def _renderer(
    call: Call, template: PromptTemplate, request: GenerationRequest, tools: Tools | None
) -> tuple[Renderer, tuple[str, str] | None]:
    """The renderer, and the tags of the thinking in the reply (None: it has none).

    Raises Ollama's 400 if the call requests tools or thinking from a model without them.
    """
    if tools and (call.profile.lacks("tools") or not _reads(call, template, "tools")):
        raise lacks(call.name, "tools")
    tags, default = _thinking_of(call, template)
    think = call.body.get("think")
    if think and tags is None:
        raise cannot_think(call)
    if think is None and tags is not None:
        think = default
    if request.response_format is not None and think:
        think = False  # vLLM's grammar binds from the first token: there is no room for thinking
    return Renderer(call, template, think, tools), tags if think else None


def _rendered(make: Callable[[], T]) -> T:
    try:
        return make()
    except TemplateError as error:
        raise response_error(f"template: {error}", 500) from None


def _reads(call: Call, template: PromptTemplate, variable: str) -> bool:
    """Whether the model's own template, or else the call's, reads the variable."""
    return variable in (read(call.profile.template) if call.profile.template else template).variables


def _thinking_of(call: Call, template: PromptTemplate) -> tuple[tuple[str, str] | None, bool]:
    """The tags of the model's thinking (None: it cannot think), and whether it thinks by default.

    The profile decides, then the model's own template, its family, and last the template of the call.
    """
    profile = call.profile
    if profile.lacks("thinking"):
        return None, False
    if profile.template:
        default = profile.thinking.default
        return profile.thinking.tags or read(profile.template).thinking_tags, default is not False
    style = style_of(call, profile)
    if style is not None and (style.switch or style.default):
        return style.tags, style.default is not False
    return template.thinking_tags, True


def _without_second_first_token(call: Call, prompt: str, template: str) -> Steps[JsonObject]:
    """The fields that keep the server from adding its first token to a prompt that already begins with it.

    The template brings the token (such as `<bos>`) as text. One request for each such text determines whether the
    server would add a second one.
    """
    marker = _MARKER.match(prompt)
    if marker is None or marker[0] not in template:
        return {}
    subject = f"adds a second {marker[0]}"
    doubled = call.fact(subject, bool)
    if doubled is None:
        tokens = yield from tokenize(call, {"prompt": marker[0]})
        if tokens is None:
            return {}
        doubled = len(tokens) > 1 and tokens[0] == tokens[1]  # the token of the text, after one of the server's own
        call.keep_fact(subject, doubled)
    return {"add_special_tokens": False} if doubled else {}
