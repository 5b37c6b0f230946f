"""Whether a call thinks, and how its thoughts will be told from its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ollama import ResponseError

from ..call import Call
from ..mapping.errors import response_error
from ..mapping.model_families import THINK_TAGS, UNKNOWN, Style, style_of, switches
from ..steps import Exchange, Part
from .reader import Reasoning
from .template_analysis import rendering


@dataclass(frozen=True)
class Thought:
    """The thinking of one call."""

    payload: Part = field(default_factory=dict)
    """What the request says about it."""
    split: bool = False
    """Whether thoughts are looked for in the text."""
    opened: bool = False
    """Whether the prompt has opened the first thought."""
    tags: tuple[str, str] = THINK_TAGS
    reasoning: Reasoning = "thinking"
    """What the server's `reasoning` is: see `assembly.Reasoning`."""
    settle: Callable[[], Exchange[Reasoning]] | None = None
    """How to find out, should it come and be "unknown"."""
    opens: Callable[[str], bool] | None = None
    """Whether the prompt opened a thought, by its text: asked where it is not known, and remembered for the model."""
    possible: bool = False
    """Whether there may be thoughts, which stop strings must not cut."""


def thought(call: Call) -> Exchange[Thought]:
    """Settle it. Raises Ollama's 400 where thinking is asked of a model that can't."""
    think, kwargs = call.body.get("think"), call.profile.chat_template_kwargs
    if call.profile.lacks("thinking"):
        if think:
            raise cant_think(call)
        return Thought(payload=switches(Style(), None, kwargs), reasoning="unknown")
    known = style_of(call.served, call.target.card.root, call.profile.thinking)
    style = known or UNKNOWN
    wanted = style.default if think is None else think
    if call.elsewhere:  # a provider tells thoughts and answers apart itself
        return Thought(payload=switches(style, wanted, kwargs))
    if wanted is None:
        opened = call.recall(_opened(call), bool)
        return Thought(
            payload=switches(style, None, kwargs),
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
        return Thought(payload=switches(style, False, kwargs), tags=style.tags, reasoning="answer")
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
    return Thought(
        payload=switches(style, wanted, kwargs),
        split=True,
        opened=bool(seen.opens),
        tags=style.tags,
        possible=True,
    )


def _opened(call: Call) -> str:
    return f"opens a thought unasked {call.profile.chat_template_kwargs}"


def _learnt(call: Call, style: Style, prompt: str) -> bool:
    opened = prompt.rstrip().endswith(style.tags[0])
    call.remember(_opened(call), opened)
    return opened


def cant_think(call: Call) -> ResponseError:
    """Ollama's refusal of `think` for a model that can't."""
    return response_error(f'"{call.name}" does not support thinking', 400)


def _settle(call: Call, style: Style) -> Exchange[Reasoning]:
    """What a server's `reasoning` is where nobody spoke of thinking: its template tells whether the model thinks."""
    seen = yield from rendering(call, style)
    if seen.thinks_unasked is None:
        return "unknown"
    return "thinking" if seen.thinks_unasked else "answer"
