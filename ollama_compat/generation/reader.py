"""Reads vLLM's events and returns what each adds to the answer, in Ollama's terms.

`ReplyFormat` describes the reply to a prompt. `ReplyReader` reads one reply: chunks in, `ReplyDelta`s out, counts at
the end. The text passes the same steps, each of which works on strings:

    text -> thinking_parser.py -> stop_strings.py -> text_tool_calls.py -> content

The server's own `reasoning` field goes past the first step. What that field holds is the reader's state `reasoning`:

    thinking   the model's thinking
    answer     the answer: thinking is disabled, and the server's reasoning parser takes every text for thinking
    unknown    not known until `resolve` or the end: an answer without any content shows that the field held it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..mapping.vllm_schema import Choice, Chunk, Delta
from ..steps import JsonObject
from .logprobs import ids_of, logprobs_of
from .stop_strings import StopFilter
from .text_tool_calls import TextToolCallParser
from .thinking_parser import ThinkingParser
from .thinking_plan import NO_THINKING, ThinkingPlan
from .tool_calls import ToolCallAssembler

PartField: TypeAlias = Literal["message", "response"]


@dataclass(slots=True)
class ReplyDelta:
    """What one event adds to the answer."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[JsonObject] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether it adds anything."""
        return bool(self.content or self.thinking or self.tool_calls or self.logprobs)

    def add(self, other: ReplyDelta) -> None:
        """Append a later delta."""
        self.content += other.content
        self.thinking += other.thinking
        self.tool_calls += other.tool_calls
        self.logprobs += other.logprobs


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How the reply to a prompt is read."""

    part_field: PartField
    """The field of Ollama's part that holds the answer: `message` for chat, `response` for generate."""
    thinking: ThinkingPlan = NO_THINKING
    tools: frozenset[str] = frozenset()
    """The names of the offered tools, whose calls the server's tool parser returns."""
    text_tools: tuple[str, ...] = ()
    """The names of the offered tools, whose calls are part of the text."""
    tool_tag: str = ""
    """What begins a tool call in the text."""
    client_stops: tuple[str, ...] = ()
    """The stop strings that the client applies."""
    top_logprobs: int = 0
    """The number of requested alternatives for each token."""
    context: bool = False
    """Whether the last part has the token ids of prompt and answer."""

    @property
    def by_token(self) -> bool:
        """Whether vLLM must send each token, also for a plain call: its tool and reasoning parsers expect that."""
        return bool(self.tools) or self.thinking.possible


class ReplyReader:
    """Reads one reply."""

    def __init__(self, reply: ReplyFormat) -> None:
        """`reply`: its format."""
        plan = reply.thinking
        self.reasoning = plan.reasoning
        self.tool_calls = ToolCallAssembler(reply.tools)
        self.finish_reason: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.token_ids: list[int] = []
        self._format = reply
        self._stops = StopFilter(reply.client_stops)
        self._thinking = ThinkingParser(plan.tags, opened=bool(plan.opened)) if plan.parse else None
        self._text_calls = TextToolCallParser(reply.tool_tag, reply.text_tools) if reply.text_tools else None
        self._reasoning_text = ""
        self._has_answer = False
        self._trim_answer = True  # white space between thinking and answer is dropped

    @property
    def stopped(self) -> bool:
        """Whether a stop string that the client applies ended the answer."""
        return self._stops.stopped

    def prompt_opened(self, prompt_text: str) -> bool:
        """Whether the prompt opened the thinking. The reader continues with what the text of the prompt shows."""
        tags = self._format.thinking.tags
        opened = prompt_text.rstrip().endswith(tags[0])
        self._thinking = ThinkingParser(tags, opened=opened)
        return opened

    def feed(self, chunk: Chunk) -> ReplyDelta:
        """What an event adds."""
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens or 0
        if chunk.prompt_token_ids:
            self.token_ids += chunk.prompt_token_ids
        delta = ReplyDelta()
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            self._keep_ids(choice)
            if choice.text:
                self._read_text(choice.text, delta)
            if choice.delta is not None:
                self._read_chat_delta(choice.delta, delta)
            if choice.logprobs is not None:
                delta.logprobs += logprobs_of(choice, self._format.top_logprobs)
        return delta

    def finish(self) -> ReplyDelta:
        """What the steps held back until the end."""
        delta = ReplyDelta(tool_calls=self.tool_calls.finish())
        if self._thinking is not None:
            delta.thinking, content = self._thinking.finish()
            self._add_answer(content, delta)
        self._add_content(self._stops.finish(), delta)
        if self._text_calls is not None:
            delta.content += self._text_calls.finish()
        self._has_answer = self._has_answer or bool(delta.content or delta.tool_calls)
        return delta

    def misread_answer(self) -> str:
        """The answer, if a reasoning parser took all of it for thinking: an answer is never empty."""
        if self._has_answer or self.reasoning != "unknown" or self.finish_reason == "length":
            return ""
        return self._stops.feed(self._reasoning_text) + self._stops.finish()

    def _keep_ids(self, choice: Choice) -> None:
        if choice.prompt_token_ids:
            self.token_ids += choice.prompt_token_ids
        if choice.token_ids:
            self.token_ids += ids_of(choice)

    def _read_chat_delta(self, received: Delta, delta: ReplyDelta) -> None:
        reasoning = received.reasoning or received.reasoning_content
        if reasoning:
            self._thinking = None  # the server separates thinking itself
            self._read_reasoning(reasoning, delta)
        if received.content:
            self._read_text(received.content, delta)
        if received.tool_calls:
            delta.tool_calls += self.tool_calls.feed(received.tool_calls)
            self._has_answer = self._has_answer or bool(delta.tool_calls)

    def _read_reasoning(self, text: str, delta: ReplyDelta) -> None:
        if not self._reasoning_text:
            text = text.lstrip()
        self._reasoning_text += text
        if self.reasoning == "answer":
            self._add_answer(text, delta)
        else:
            delta.thinking += text

    def _read_text(self, text: str, delta: ReplyDelta) -> None:
        if self._reasoning_text and self._trim_answer:
            text = text.lstrip()
            self._trim_answer = not text
        if self._thinking is not None:
            thinking, text = self._thinking.feed(text)
            delta.thinking += thinking
        self._add_answer(text, delta)

    def _add_answer(self, text: str, delta: ReplyDelta) -> None:
        if self._format.client_stops:
            text = self._stops.feed(text)
        self._add_content(text, delta)

    def _add_content(self, text: str, delta: ReplyDelta) -> None:
        if self._text_calls is not None:
            text, calls = self._text_calls.feed(text)
            delta.tool_calls += calls
        delta.content += text
        self._has_answer = self._has_answer or bool(text or delta.tool_calls)
