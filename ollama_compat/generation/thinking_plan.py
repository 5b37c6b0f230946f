"""The thinking plan of a call: whether the model thinks, and how the reply separates thinking from the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ollama import ResponseError

from ..call import Call
from ..mapping.model_families import THINK_TAGS, UNKNOWN, ThinkingStyle, thinking_fields, thinking_style
from ..mapping.ollama_errors import response_error
from ..settings import Profile
from ..steps import JsonObject, Steps
from .template_analysis import analyse_thinking

Reasoning: TypeAlias = Literal["thinking", "answer", "unknown"]
"""What a server's field `reasoning` holds; see reader.py."""


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """The thinking of one call."""

    fields: JsonObject = field(default_factory=dict)
    """The fields of the request that enable or disable thinking."""
    parse: bool = False
    """Whether the text of the reply may hold thinking between tags."""
    opened: bool | None = False
    """Whether the prompt opens the thinking; None: not known until the server returns the text of the prompt."""
    tags: tuple[str, str] = THINK_TAGS
    reasoning: Reasoning = "thinking"
    style: ThinkingStyle | None = None
    """The style with which `resolve_reasoning` resolves an unknown `reasoning`; None: it stays unknown."""
    possible: bool = False
    """Whether the reply may hold thinking, which stop strings must not cut."""
    provisional: bool = False
    """Whether the server did not return what the plan needs, so that a later call must plan again."""


NO_THINKING = ThinkingPlan()
"""The plan of a prompt whose reply holds no thinking in its text."""


THINKING = "thinking plan"
"""The subject of the fact that holds a `CachedPlan`; `think` and `may_open` of the call follow it."""


@dataclass(frozen=True, slots=True)
class CachedPlan:
    """A plan that later calls of the same profile reuse."""

    profile: Profile
    plan: ThinkingPlan


def plan_thinking(call: Call, *, may_open: bool = True) -> Steps[ThinkingPlan]:
    """Plan the thinking of a call that uses the server's chat template, and cache the plan.

    `may_open`: whether the prompt may open the thinking. It does not if it continues an answer of the caller's, or
    under a format, which without a reasoning parser binds from the first token. Raises Ollama's 400 if the call
    requests thinking from a model that cannot think.
    """
    plan = yield from _plan(call, may_open=may_open)
    if not plan.provisional:
        call.keep_fact((THINKING, call.body.get("think"), may_open), CachedPlan(call.profile, plan))
    return plan


def _plan(call: Call, *, may_open: bool) -> Steps[ThinkingPlan]:
    think, kwargs = call.body.get("think"), call.profile.chat_template_kwargs
    if call.profile.lacks("thinking"):
        if think:
            raise cannot_think(call)
        return ThinkingPlan(thinking_fields(ThinkingStyle(), None, kwargs), reasoning="unknown")
    known = style_of(call, call.profile)
    style = known or UNKNOWN
    wanted = style.default if think is None else think
    if call.from_provider:  # a provider separates thinking itself
        return ThinkingPlan(thinking_fields(style, wanted, kwargs))
    if wanted is None:
        opened = call.fact(_opened_fact(call), bool)
        return ThinkingPlan(
            thinking_fields(style, None, kwargs),
            parse=True,
            opened=opened if may_open else False,
            tags=style.tags,
            reasoning="unknown",
            style=style,
            possible=opened is True,
        )
    if think and style.never:
        raise cannot_think(call)
    if not wanted and not style.always:
        return ThinkingPlan(thinking_fields(style, False, kwargs), tags=style.tags, reasoning="answer")
    template = yield from analyse_thinking(call, style)
    if known is None and template.reacts is False and not template.opens:
        call.notice(
            "thinking unknown",
            call.served,
            "model %(served)s: its chat template does not read enable_thinking; if the model can think, set "
            "`thinking` in its profile",
            served=call.served,
        )
        raise cannot_think(call)
    return ThinkingPlan(
        thinking_fields(style, wanted, kwargs),
        parse=True,
        opened=bool(template.opens) and may_open,
        tags=style.tags,
        possible=True,
        provisional=template.reacts is None,
    )


def style_of(call: Call, profile: Profile) -> ThinkingStyle | None:
    """How the served model thinks: the profile's settings over the row of its family; None: not known."""
    thinking = profile.thinking
    return thinking_style(
        call.served, call.target.card.root, default=thinking.default, switch=thinking.switch, tags=thinking.tags
    )


def keep_opened(call: Call, *, opened: bool) -> None:
    """Keep the fact whether the chat template opens the thinking if a call does not set `think`."""
    call.keep_fact(_opened_fact(call), opened)
    for may_open in (True, False):  # these plans were made without that fact
        call.context.facts.pop((call.url, call.served, (THINKING, None, may_open)), None)


def resolve_reasoning(call: Call, style: ThinkingStyle) -> Steps[Reasoning]:
    """What the server's `reasoning` holds if the call does not set `think`, from what the chat template renders."""
    template = yield from analyse_thinking(call, style)
    if template.thinks_by_default is None:
        return "unknown"
    return "thinking" if template.thinks_by_default else "answer"


def cannot_think(call: Call) -> ResponseError:
    """Ollama's refusal of `think` for a model that cannot think."""
    return response_error(f'"{call.name}" does not support thinking', 400)


def _opened_fact(call: Call) -> str:
    return f"opens thinking by default {call.profile.chat_template_kwargs}"
