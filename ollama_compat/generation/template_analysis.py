"""What the chat template of a served model does, determined with vLLM's `/tokenize` (0.32) once for each model.

The client cannot read a template, but it can compare what the template renders: whether it reacts to the switch of
thinking, whether it opens the thinking itself (so that the reply begins inside it), and whether it renders tools and
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from ollama import ResponseError

from ..call import Call
from ..mapping.images import content
from ..mapping.model_families import ThinkingStyle, thinking_fields
from ..mapping.vllm_schema import Tokens, decode
from ..steps import JsonObject, Steps

_SAMPLE = [{"role": "user", "content": "hi"}]
_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
_BLANKS = " \t\r\n\u2581\u0120\u010a\u0109"  # white space, as text and as byte-level and sentence-piece tokens


@dataclass(frozen=True, slots=True)
class ThinkingAnalysis:
    """How the template renders the beginning of an answer. None: the server did not return it."""

    reacts: bool | None
    """Whether the prompt with thinking enabled differs from the prompt with thinking disabled."""
    opens: bool | None
    """Whether the prompt with thinking enabled ends with the opening tag."""
    thinks_by_default: bool | None
    """Whether a prompt that does not set the switch has thinking enabled. None also if all prompts are equal."""


def analyse_thinking(call: Call, style: ThinkingStyle) -> Steps[ThinkingAnalysis]:
    """How the template renders thinking: known already, or from three requests."""
    kwargs = call.profile.chat_template_kwargs
    subject = f"thinking of the template {style} {kwargs}"
    if (known := call.fact(subject, ThinkingAnalysis)) is not None:
        return known
    enabled = yield from _render(call, thinking_fields(style, True, kwargs))
    disabled = yield from _render(call, thinking_fields(style, False, kwargs))
    default = yield from _render(call, thinking_fields(ThinkingStyle(), None, kwargs))
    found = _compare(style, enabled, disabled, default)
    if found.reacts is not None:  # a request that failed now may succeed later
        call.keep_fact(subject, found)
    return found


def renders_tools(call: Call) -> Steps[bool]:
    """Whether the chat template renders tools."""
    if (known := call.fact("renders tools", bool)) is not None:
        return known
    without = yield from call.post("/tokenize", {"messages": _SAMPLE})
    offered = yield from call.post("/tokenize", {"messages": _SAMPLE, "tools": _TOOLS})
    if not (without.ok and offered.ok):
        return False
    found = decode(without.body, Tokens, call.url).count != decode(offered.body, Tokens, call.url).count
    call.keep_fact("renders tools", found)
    return found


def renders_images(call: Call) -> Steps[bool]:
    """Whether the server accepts an image: it refuses one for a text model."""
    if (known := call.fact("renders images", bool)) is not None:
        return known
    shown = [{"role": "user", "content": content("hi", [_PIXEL])}]
    reply = yield from call.post("/tokenize", {"messages": shown})
    if reply.status < 500:
        call.keep_fact("renders images", reply.ok)
    return reply.ok


def _compare(
    style: ThinkingStyle, enabled: Tokens | None, disabled: Tokens | None, default: Tokens | None
) -> ThinkingAnalysis:
    if enabled is None or disabled is None or default is None:
        return ThinkingAnalysis(None, None, None)
    reacts = enabled.tokens != disabled.tokens
    thinks = True if _opens(default, style) else (enabled.tokens == default.tokens if reacts else None)
    return ThinkingAnalysis(reacts, _opens(enabled, style), thinks)


def _opens(tokens: Tokens, style: ThinkingStyle) -> bool:
    return "".join(tokens.token_strs or ()).rstrip(_BLANKS).endswith(style.tags[0])


def _render(call: Call, fields: JsonObject) -> Steps[Tokens | None]:
    payload: JsonObject = {"messages": _SAMPLE, "return_token_strs": True}
    if "chat_template_kwargs" in fields:
        payload["chat_template_kwargs"] = fields["chat_template_kwargs"]
    try:
        reply = yield from call.post("/tokenize", payload)
    except (httpx.HTTPError, ResponseError):
        return None  # a stream may be open, which this must not end
    return decode(reply.body, Tokens, call.url) if reply.ok else None
