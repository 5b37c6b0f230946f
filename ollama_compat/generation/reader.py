"""vLLM's events put together into what Ollama sends: the answer, its thoughts, its tool calls.

`Plan` says how a reply is to be read, `Assembler` reads one: events in, `Fragment`s out, and the counts at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..mapping.model_families import ThinkingParser
from ..mapping.tools import ToolCalls
from ..mapping.vllm_schema import Choice, Chunk
from ..steps import JsonObject, Steps
from .logprobs import ids_of, logprobs_of
from .stop_strings import StopFilter

Reasoning: TypeAlias = Literal["thinking", "answer", "unknown"]
"""What a server's field `reasoning` holds: thoughts; the answer, where thinking is off and a reasoning parser that
takes every text for a thought is wrong; or nobody knows until the end, when an empty answer shows that it was it."""


@dataclass
class Fragment:
    """What one event adds to the answer, in Ollama's terms."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[JsonObject] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to hand on."""
        return bool(self.content or self.thinking or self.tool_calls or self.logprobs)

    def add(self, other: Fragment) -> None:
        """Join what comes after to what came before."""
        self.content += other.content
        self.thinking += other.thinking
        self.tool_calls += other.tool_calls
        self.logprobs += other.logprobs


@dataclass(frozen=True)
class Plan:
    """How a reply is read."""

    render: Callable[[Fragment], JsonObject]
    """The fields of a part that hold a fragment: `message` for chat, `response` for generate."""
    stops: tuple[str, ...] = ()
    """Stop strings that vLLM was not given."""
    tools: frozenset[str] = frozenset()
    """The names of the tools that were offered."""
    splitter: Callable[[], ThinkingParser] | None = None
    """Tells thoughts in the text, where the server may have no reasoning parser."""
    learn: Callable[[str], ThinkingParser | None] | None = None
    """What tells thoughts, once the text of the prompt is known: where nobody knew whether it opens one."""
    reasoning: Reasoning = "thinking"
    settle: Callable[[], Steps[Reasoning]] | None = None
    """How to find out what `reasoning` is, once some comes and it is "unknown"."""
    top_logprobs: int = 0
    """How many alternatives for each token were asked for."""
    stepwise: bool = False
    """Whether vLLM is to send each token by itself also where nobody reads the parts: its parsers of tools and of
    thoughts are made for that."""
    context: bool = False
    """Whether the last part brings the token ids of prompt and answer."""


@dataclass
class Assembler:
    """Puts vLLM's events together into fragments and keeps count."""

    plan: Plan
    tool_calls: ToolCalls = field(init=False)
    kind: Reasoning = field(init=False)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    _stops: StopFilter = field(init=False)
    _splitter: ThinkingParser | None = field(init=False)
    _reasoning: str = ""
    _said: bool = False
    _trim: bool = True

    def __post_init__(self) -> None:
        """Fresh state for one reply."""
        self.tool_calls = ToolCalls(self.plan.tools)
        self.kind = self.plan.reasoning
        self._stops = StopFilter(self.plan.stops)
        self._splitter = self.plan.splitter() if self.plan.splitter else None

    @property
    def stopped(self) -> bool:
        """Whether a stop string of this side ended the answer."""
        return self._stops.stopped

    def feed(self, chunk: Chunk) -> Fragment:
        """What the event adds."""
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens or 0
        self.token_ids += chunk.prompt_token_ids or ()
        if chunk.prompt_text is not None and self.plan.learn is not None:
            self._splitter = self.plan.learn(chunk.prompt_text)
        fragment = Fragment()
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            self.token_ids += (*(choice.prompt_token_ids or ()), *ids_of(choice))
            self._take(choice, fragment)
            fragment.logprobs += logprobs_of(choice, self.plan.top_logprobs)
        return fragment

    def finish(self) -> Fragment:
        """What was held back until the end."""
        fragment = Fragment(tool_calls=self.tool_calls.finish())
        if self._splitter is not None:
            fragment.thinking, content = self._splitter.finish()
            fragment.content = self._stops.feed(content)
        fragment.content += self._stops.finish()
        self._said = self._said or bool(fragment.content or fragment.tool_calls)
        return fragment

    @property
    def mistaken(self) -> str:
        """The answer, where a parser took the whole of it for a thought: nobody asked for thoughts, and an answer is
        never empty."""
        if self._said or self.kind != "unknown" or self.finish_reason == "length":
            return ""
        return self._stops.feed(self._reasoning) + self._stops.finish()

    def _take(self, choice: Choice, fragment: Fragment) -> None:
        if choice.text:
            self._answer(choice.text, fragment)
        delta = choice.delta
        if delta is None:
            return
        reasoning = delta.reasoning or delta.reasoning_content
        if reasoning:
            self._splitter = None  # the server tells thoughts itself
            self._think(reasoning, fragment)
        if delta.content:
            self._answer(delta.content, fragment)
        if delta.tool_calls:
            fragment.tool_calls += self.tool_calls.feed(delta.tool_calls)
        self._said = self._said or bool(fragment.content or fragment.tool_calls)

    def _think(self, text: str, fragment: Fragment) -> None:
        if not self._reasoning:
            text = text.lstrip()
        self._reasoning += text
        if self.kind == "answer":
            fragment.content += self._stops.feed(text)
        else:
            fragment.thinking += text

    def _answer(self, text: str, fragment: Fragment) -> None:
        if self._reasoning and self._trim:
            text = text.lstrip()
            self._trim = not text
        if self._splitter is not None:
            thought, text = self._splitter.feed(text)
            fragment.thinking += thought
        fragment.content += self._stops.feed(text)
