"""The prompts without a Go template: a conversation, a text (raw or with a suffix), and tokens (after a `context`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from ..call import Call
from ..mapping import tools
from ..mapping.messages import continues, joined, to_openai
from ..mapping.ollama_errors import lacks
from ..steps import JsonObject, Steps
from .protocol import CHAT_PATH, COMPLETIONS_PATH, Messages
from .reader import PartField, ReplyFormat
from .request import GenerationRequest, unavailable
from .thinking_plan import THINKING, CachedPlan, plan_thinking
from .window import tokenize, without_oldest

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam

_TEMPLATE_BYTES = 64  # what a chat template may add for each message


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the chat template of the server."""

    messages: Messages
    reply: ReplyFormat
    continued: bool = False
    """Whether the model continues the last message."""
    tools: tuple[ChatCompletionFunctionToolParam, ...] = ()
    path: str = CHAT_PATH

    @property
    def droppable(self) -> int:
        """All messages but the last."""
        return len(self.messages) - 1

    def fields(self) -> JsonObject:
        """The messages, the tools and the switch of thinking: what the chat template reads."""
        fields: JsonObject = {"messages": to_openai(joined(self.messages)), **self.reply.thinking.fields}
        if self.continued:
            fields["add_generation_prompt"] = False
            fields["continue_final_message"] = True
        if self.tools:  # vLLM refuses an empty list, and the official client always sends one
            fields["tools"] = list(self.tools)
        return fields

    def countable(self) -> JsonObject:
        """The same: `/tokenize` renders the template too."""
        return self.fields()

    def surely_fits(self, limit: int) -> bool:
        """Whether the JSON has fewer bytes than `limit`; an image has many tokens for few bytes."""
        fields = self.fields()
        messages = fields["messages"]
        if any(isinstance(message["content"], list) for message in messages):
            return False
        return len(msgspec.json.encode(fields)) + _TEMPLATE_BYTES * len(messages) <= limit

    def without_oldest(self, number: int, /) -> ChatPrompt:
        """The conversation without its oldest messages."""
        return replace(self, messages=without_oldest(self.messages, number))

    @property
    def can_be_cut(self) -> bool:
        """Bare tokens can hold neither tool calls nor images."""
        return not (self.tools or any(message.get("images") for message in self.messages))

    def cut(self, tokens: list[int]) -> TokenPrompt:
        """The tokens that are left."""
        return TokenPrompt(tokens, self.reply)


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text that the model completes as it is."""

    text: str
    reply: ReplyFormat
    path: str = COMPLETIONS_PATH
    droppable: int = 0
    can_be_cut: bool = True

    def fields(self) -> JsonObject:
        """The text."""
        return {"prompt": self.text}

    def countable(self) -> JsonObject:
        """The text."""
        return {"prompt": self.text}

    def surely_fits(self, limit: int) -> bool:
        """Whether the text has fewer bytes than `limit`."""
        return text_fits(self.text, limit)

    def without_oldest(self, _number: int, /) -> TextPrompt:
        """The text: it has no messages."""
        return self

    def cut(self, tokens: list[int]) -> TokenPrompt:
        """The tokens that are left."""
        return TokenPrompt(tokens, self.reply)


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids that the model completes."""

    tokens: list[int]
    reply: ReplyFormat
    request_fields: JsonObject = field(default_factory=dict)
    """Further fields of the request."""
    path: str = COMPLETIONS_PATH
    droppable: int = 0
    can_be_cut: bool = True

    def fields(self) -> JsonObject:
        """The tokens."""
        return {"prompt": self.tokens, **self.request_fields}

    def countable(self) -> list[int]:
        """The tokens themselves."""
        return self.tokens

    def surely_fits(self, limit: int) -> bool:
        """Whether there are fewer tokens than `limit`."""
        return len(self.tokens) < limit

    def without_oldest(self, _number: int, /) -> TokenPrompt:
        """The tokens: they have no messages."""
        return self

    def cut(self, tokens: list[int]) -> TokenPrompt:
        """The tokens that are left."""
        return replace(self, tokens=tokens)


def chat_prompt(
    call: Call,
    request: GenerationRequest,
    messages: Messages,
    offered: Sequence[Mapping[str, Any]],
    part_field: PartField,
) -> Steps[ChatPrompt]:
    """The prompt of a conversation for the server's chat template.

    Raises Ollama's 400 if the call requests thinking or tools from a model without them.
    """
    continued = continues(messages)
    may_open = request.response_format is None and not continued
    cached = call.context.facts.get((call.url, call.served, (THINKING, call.body.get("think"), may_open)))
    if isinstance(cached, CachedPlan) and cached.profile is call.profile:
        thinking = cached.plan
    else:
        thinking = yield from plan_thinking(call, may_open=may_open)
    reply = ReplyFormat(
        part_field,
        thinking,
        client_stops=request.client_stops(thinking=thinking.possible) if request.stops else (),
        top_logprobs=request.top_logprobs,
        context=part_field == "response",
    )
    if not offered:
        return ChatPrompt(messages, reply, continued)
    function_tools = tuple(tools.offered(offered))
    if function_tools and call.profile.lacks("tools"):
        raise lacks(call.name, "tools")
    return ChatPrompt(messages, replace(reply, tools=tools.names(function_tools)), continued, function_tools)


def text_fits(text: str, limit: int) -> bool:
    """Whether a text has fewer than `limit` tokens for sure."""
    return len(text.encode("utf-8", "replace")) < limit


def after_context(
    call: Call, countable: JsonObject, reply: ReplyFormat, request_fields: JsonObject | None = None
) -> Steps[TokenPrompt]:
    """The prompt's tokens after those of the conversation so far (`context` of generate)."""
    tokens = yield from tokenize(call, countable)
    if tokens is None:
        raise unavailable("context", f"{call.url} has no /tokenize")
    return TokenPrompt([*call.body["context"], *tokens], reply, request_fields or {})
