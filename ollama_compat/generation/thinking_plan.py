"""Whether a call thinks, and how its thoughts will be told from its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ollama import ResponseError

from ..call import Call
from ..mapping.errors import response_error
from ..mapping.model_families import THINK_TAGS, UNKNOWN, ThinkingStyle, thinking_fields, thinking_style
from ..steps import JsonObject, Steps
from .reader import Reasoning
from .template_analysis import rendering


@dataclass(frozen=True)
class ThinkingPlan:
    """The thinking of one call."""

    payload: JsonObject = field(default_factory=dict)
    """What the request says about it."""
    split: bool = False
    """Whether thoughts are looked for in the text."""
    opened: bool = False
    """Whether the prompt has opened the first thought."""
    tags: tuple[str, str] = THINK_TAGS
    reasoning: Reasoning = "thinking"
    """What the server's `reasoning` is: see `assembly.Reasoning`."""
    settle: Callable[[], Steps[Reasoning]] | None = None
    """How to find out, should it come and be "unknown"."""
    opens: Callable[[str], bool] | None = None
    """Whether the prompt opened a thought, by its text: asked where it is not known, and remembered for the model."""
    possible: bool = False
    """Whether there may be thoughts, which stop strings must not cut."""


def plan_thinking(call: Call) -> Steps[ThinkingPlan]:
    """Settle it. Raises Ollama's 400 where thinking is asked of a model that can't."""
    think, kwargs = call.body.get("think"), call.profile.chat_template_kwargs
    if call.profile.lacks("thinking"):
        if think:
            raise cant_think(call)
        return ThinkingPlan(payload=thinking_fields(ThinkingStyle(), None, kwargs), reasoning="unknown")
    known = thinking_style(call.served, call.target.card.root, call.profile.thinking)
    style = known or UNKNOWN
    wanted = style.default if think is None else think
    if call.elsewhere:  # a provider tells thoughts and answers apart itself
        return ThinkingPlan(payload=thinking_fields(style, wanted, kwargs))
    if wanted is None:
        opened = call.recall(_opened(call), bool)
        return ThinkingPlan(
            payload=thinking_fields(style, None, kwargs),
            split=True,
            opened=opened is True,
            tags=style.tags,
            reasoning="unknown",
            settle=lambda: _settle(call, style),
            opens=(lambda prompt: _learnt(call, style, prompt)) if opened is None else None,
            possible=opened is True,
        )
    if think and style.default is False and style.switch is None:
        raise cant_think(call)
    if not wanted and not (style.default and style.switch is None):  # who can't be switched off thinks all the same
        return ThinkingPlan(payload=thinking_fields(style, False, kwargs), tags=style.tags, reasoning="answer")
    seen = yield from rendering(call, style)
    if known is None and seen.reacts is False and not seen.opens:
        call.memory.notice(
            "thinking unknown",
            call.served,
            "%(served)s: its chat template knows no enable_thinking; "
            "if the model thinks all the same, say so in its profile",
            served=call.served,
        )
        raise cant_think(call)
    return ThinkingPlan(
        payload=thinking_fields(style, wanted, kwargs),
        split=True,
        opened=bool(seen.opens),
        tags=style.tags,
        possible=True,
    )


def _opened(call: Call) -> str:
    return f"opens a thought unasked {call.profile.chat_template_kwargs}"


def _learnt(call: Call, style: ThinkingStyle, prompt: str) -> bool:
    opened = prompt.rstrip().endswith(style.tags[0])
    call.remember(_opened(call), opened)
    return opened


def cant_think(call: Call) -> ResponseError:
    """Ollama's refusal of `think` for a model that can't."""
    return response_error(f'"{call.name}" does not support thinking', 400)


def _settle(call: Call, style: ThinkingStyle) -> Steps[Reasoning]:
    """What a server's `reasoning` is where nobody spoke of thinking: its template tells whether the model thinks."""
    seen = yield from rendering(call, style)
    if seen.thinks_unasked is None:
        return "unknown"
    return "thinking" if seen.thinks_unasked else "answer"
