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

from ..mapping.vllm_schema import Chunk, ToolCallDelta
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
    """What one event, or several, add to the answer."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[JsonObject] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether it adds anything."""
        return bool(self.content or self.thinking or self.tool_calls or self.logprobs)


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
        self.finish_reason: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.token_ids: list[int] = []
        self.stopped = False
        """Whether a stop string that the client applies ended the answer."""
        self._format = reply
        self._thinking = ThinkingParser(plan.tags, opened=bool(plan.opened)) if plan.parse else None
        self._stops = StopFilter(reply.client_stops) if reply.client_stops else None
        self._text_calls = TextToolCallParser(reply.tool_tag, reply.text_tools) if reply.text_tools else None
        self._tool_calls: ToolCallAssembler | None = None
        self._reasoning_text = ""
        self._has_answer = False
        self._trim_answer = True  # white space between thinking and answer is dropped

    @property
    def dropped_calls(self) -> list[str]:
        """Why tool calls were dropped."""
        return [] if self._tool_calls is None else self._tool_calls.dropped

    def prompt_opened(self, prompt_text: str) -> bool:
        """Whether the prompt opened the thinking. The reader continues with what the text of the prompt shows."""
        tags = self._format.thinking.tags
        opened = prompt_text.rstrip().endswith(tags[0])
        self._thinking = ThinkingParser(tags, opened=opened)
        return opened

    def feed(self, chunk: Chunk, delta: ReplyDelta) -> None:
        """Add an event to `delta`: a new one for each part of a stream, the same one for a plain call.

        The events `<think>Hm`, `</think>`, `Hi` add the thinking `Hm`, nothing, and the content `Hi`.
        """
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens or 0
        if chunk.prompt_token_ids:
            self.token_ids += chunk.prompt_token_ids
        for choice in chunk.choices:
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
            if choice.token_ids or choice.prompt_token_ids:
                self.token_ids += (*(choice.prompt_token_ids or ()), *ids_of(choice))
            if choice.text:
                self._read_text(choice.text, delta)
            received = choice.delta
            if received is not None:
                if received.reasoning or received.reasoning_content:
                    self._read_reasoning(received.reasoning or received.reasoning_content or "", delta)
                if received.content:
                    self._read_text(received.content, delta)
                if received.tool_calls:
                    self._read_tool_calls(received.tool_calls, delta)
            if choice.logprobs is not None:
                delta.logprobs += logprobs_of(choice, self._format.top_logprobs)

    def finish(self, delta: ReplyDelta) -> None:
        """Add what the steps held back until the end, or the answer that a reasoning parser took for thinking."""
        if self._tool_calls is not None:
            delta.tool_calls += self._tool_calls.finish()
        if self._thinking is not None:
            thinking, content = self._thinking.finish()
            delta.thinking += thinking
            self._add_answer(content, delta)
        if self._stops is not None:
            self._add_content(self._stops.finish(), delta)
        if self._has_answer or delta.content or delta.tool_calls:
            return
        if self.reasoning == "unknown" and self._reasoning_text and self.finish_reason != "length":
            self._add_answer(self._reasoning_text, delta)
            if self._stops is not None:
                delta.content += self._stops.finish()
            if delta.content:  # the call did not request thinking, and an answer is never empty
                delta.thinking = ""

    def held_back(self) -> str:
        """Text that began like a tool call and was none: Ollama sends it with the last part."""
        return "" if self._text_calls is None else self._text_calls.finish()

    def _read_tool_calls(self, deltas: list[ToolCallDelta], delta: ReplyDelta) -> None:
        if self._tool_calls is None:
            self._tool_calls = ToolCallAssembler(self._format.tools)
        delta.tool_calls += self._tool_calls.feed(deltas)
        self._has_answer = self._has_answer or bool(delta.tool_calls)

    def _read_reasoning(self, text: str, delta: ReplyDelta) -> None:
        self._thinking = None  # the server separates thinking itself
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
            if self._thinking.ended:
                self._thinking = None  # the rest of the text is the answer
        if text:
            self._add_answer(text, delta)

    def _add_answer(self, text: str, delta: ReplyDelta) -> None:
        """Add text of the answer, up to a stop string that the client applies."""
        if self._stops is not None:
            text = self._stops.feed(text)
            self.stopped = self._stops.stopped
        self._add_content(text, delta)

    def _add_content(self, text: str, delta: ReplyDelta) -> None:
        if self._text_calls is not None:
            text, calls = self._text_calls.feed(text)
            delta.tool_calls += calls
        if text or delta.tool_calls:
            self._has_answer = True
            delta.content += text
