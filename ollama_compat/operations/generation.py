"""A generation from its first event to Ollama's last part: what `chat` and `generate` share.

vLLM is always asked for an event stream, also where the caller wants one reply: the time of the first token is then
known, so `prompt_eval_duration` and `eval_duration` are true, and a caller who goes away frees the server. Where nobody
reads the parts, `stream_interval` makes vLLM send the rest in one event, which costs what a plain reply costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import Refusal, broken_off, failure, refusal, response_error
from ..exchange import NEXT, Exchange, Open, Part, Reply
from ..wire import Choice, Chunk, Logprobs, TokenLogprob, decode
from .call import Call
from .stops import StopFilter
from .thinking import Splitter
from .tools import ToolCalls

DONE = b"[DONE]"
_ONE_EVENT = 1_000_000  # tokens: more than any window


@dataclass
class Fragment:
    """What one event adds to the answer, in Ollama's terms."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[Part] = field(default_factory=list)
    logprobs: list[Part] = field(default_factory=list)

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

    render: Callable[[Fragment], Part]
    """The fields of a part that hold a fragment: `message` for chat, `response` for generate."""
    stops: tuple[str, ...] = ()
    """Stop strings that vLLM was not given."""
    tools: frozenset[str] = frozenset()
    """The names of the tools that were offered."""
    splitter: Callable[[], Splitter] | None = None
    """Tells thoughts in the text, where the server may have no reasoning parser."""
    reasoning: str = "thinking"
    """What the server's `reasoning` is: "thinking"; "answer" where thinking was switched off, so that a parser that
    takes every text for a thought is wrong; "unknown" where thinking was not spoken of."""
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
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    _stops: StopFilter = field(init=False)
    _splitter: Splitter | None = field(init=False)
    _reasoning: str = ""
    _said: bool = False
    _trim: bool = True

    def __post_init__(self) -> None:
        """Fresh state for one reply."""
        self.tool_calls = ToolCalls(self.plan.tools)
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
        fragment = Fragment()
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            self.token_ids += (*(choice.prompt_token_ids or ()), *_without_end(choice))
            self._take(choice, fragment)
            fragment.logprobs += _logprobs(choice, self.plan.top_logprobs)
        return fragment

    def finish(self) -> Fragment:
        """What was held back until the end."""
        fragment = Fragment(tool_calls=self.tool_calls.finish())
        if self._splitter is not None:
            fragment.thinking, content = self._splitter.finish()
            fragment.content = self._stops.feed(content)
        fragment.content += self._stops.finish()
        self._said = self._said or bool(fragment.content or fragment.tool_calls)
        if not self._said and self._reasoning and self.plan.reasoning != "thinking" and self.finish_reason != "length":
            # A parser took the whole answer for a thought: nobody asked for thoughts, and an answer is never empty.
            fragment.content = self._stops.feed(self._reasoning) + self._stops.finish()
        return fragment

    def _take(self, choice: Choice, fragment: Fragment) -> None:
        if choice.text:
            fragment.content += self._stops.feed(choice.text)
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
        if self.plan.reasoning == "answer":
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


def respond(call: Call, path: str, payload: Part, plan: Plan) -> Exchange[Refusal | None]:
    """Ask vLLM and yield Ollama's parts. Returns the refusal where the server refused before the first part."""
    assembler = Assembler(plan)
    sent = call.clock.ticks()
    refused: Reply | None = yield Open(call.request(path, _streamed(call, payload, plan)))
    if refused is not None:
        return refusal(call.url, refused.status, refused.body)
    whole, first = Fragment(), 0
    while (data := (yield NEXT)) is not None:
        if data == DONE:
            continue  # to the stream's end, so that the connection can be used again
        first = first or call.clock.ticks()
        chunk = decode(data, Chunk, call.url)
        if bytes(chunk.error) not in (b"", b"null"):
            raise failure(call.url, data)
        fragment = assembler.feed(chunk)
        if fragment and call.stream:
            yield _part(call, plan, fragment)
        elif fragment:
            whole.add(fragment)
        if assembler.stopped:
            break
    _check_end(call, assembler)
    whole.add(rest := assembler.finish())
    if call.stream:
        if rest:
            yield _part(call, plan, rest)
        whole = Fragment()
    yield _part(call, plan, whole) | _summary(call, assembler, sent, first)
    return None


def _streamed(call: Call, payload: Part, plan: Plan) -> Part:
    options: dict[str, bool] = {"include_usage": True}
    if plan.stops:
        options["continuous_usage_stats"] = True  # the last event, with the usage, will not be waited for
    streamed = {**payload, "stream": True, "stream_options": options}
    if not (call.stream or plan.stops or plan.stepwise):
        streamed["stream_interval"] = _ONE_EVENT
    if plan.context:
        streamed["return_token_ids"] = True
    return streamed


def _check_end(call: Call, assembler: Assembler) -> None:
    if assembler.stopped:
        return
    if assembler.finish_reason is None:
        raise broken_off(call.url, "the stream ended without a finish_reason")
    if assembler.finish_reason in ("abort", "error"):
        raise response_error(f"{call.url} gave the generation up (finish_reason {assembler.finish_reason!r})", 500)


def _part(call: Call, plan: Plan, fragment: Fragment) -> Part:
    part = {"model": call.name, "created_at": call.clock.stamp(), **plan.render(fragment), "done": False}
    if fragment.logprobs:
        part["logprobs"] = fragment.logprobs
    return part


def _summary(call: Call, assembler: Assembler, sent: int, first: int) -> Part:
    for reason in assembler.tool_calls.dropped:
        call.memory.notice(f"dropped {reason}", "%s: dropped %s", call.name, reason)
    ended = call.clock.ticks()
    summary: Part = {
        "done": True,
        "done_reason": "length" if assembler.finish_reason == "length" and not assembler.stopped else "stop",
    }
    if assembler.plan.context:
        summary["context"] = assembler.token_ids
    return summary | {
        "total_duration": ended - call.started,
        "load_duration": sent - call.started,
        "prompt_eval_count": assembler.prompt_tokens,
        "prompt_eval_duration": (first or ended) - sent,
        "eval_count": assembler.completion_tokens,
        "eval_duration": ended - (first or ended),
    }


def _ends_by_token(choice: Choice) -> bool:
    """Whether the last token of the event is the model's end-of-text, which is no part of the answer."""
    return choice.finish_reason == "stop" and not isinstance(choice.stop_reason, str)


def _without_end(choice: Choice) -> list[int]:
    ids = choice.token_ids or []
    return ids[:-1] if _ends_by_token(choice) else ids


def _logprobs(choice: Choice, top: int) -> list[Part]:
    if choice.logprobs is None:
        return []
    tokens = [_logprob(token, top) for token in _tokens(choice.logprobs)]
    return tokens[:-1] if _ends_by_token(choice) else tokens


def _tokens(logprobs: Logprobs) -> Iterator[TokenLogprob]:
    """The tokens of either shape: chat's objects, or completions' parallel lists."""
    if logprobs.content is not None:
        yield from logprobs.content
        return
    tops = logprobs.top_logprobs or []
    for i, (token, value) in enumerate(zip(logprobs.tokens or [], logprobs.token_logprobs or [], strict=False)):
        top = tops[i] if i < len(tops) else None
        likeliest = sorted((top or {}).items(), key=lambda item: -item[1])
        alternatives = [TokenLogprob(text, number) for text, number in likeliest]
        yield TokenLogprob(token, value if value is not None else 0.0, None, alternatives)


def _logprob(token: TokenLogprob, top: int = 0) -> Part:
    part: dict[str, Any] = {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": token.bytes if token.bytes is not None else list(token.token.encode()),
    }
    if token.top_logprobs and top:
        part["top_logprobs"] = [_logprob(other) for other in token.top_logprobs[:top]]
    return part
