"""What a served model's chat template does, learnt from vLLM's `/tokenize` (0.32), once for each model.

A template is not readable from outside, but its rendering is: whether it reacts to the switch of thinking, and whether
it opens the tag of a thought itself, so that the answer begins in the middle of one.
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
_BLANKS = " \t\r\n\u2581\u0120\u010a\u0109"  # white space, as text and as byte-level and sentence-piece tokens write it


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the template renders the beginning of an answer. None: the server would not say."""

    reacts: bool | None
    """Whether the prompt with thinking on differs from the one with thinking off."""
    opens: bool | None
    """Whether the prompt with thinking on ends with the opening tag."""
    thinks_unasked: bool | None
    """Whether a prompt in which thinking is not spoken of is one with thinking on. None also where no prompt differs
    from another, so that nothing can be told from them."""


def rendering(call: Call, style: ThinkingStyle) -> Steps[Rendering]:
    """Learn the rendering, or remember it."""
    kwargs = call.profile.chat_template_kwargs
    subject = f"rendering {style} {kwargs}"
    if (known := call.recall(subject, Rendering)) is not None:
        return known
    on = yield from _tokens(call, thinking_fields(style, True, kwargs))
    off = yield from _tokens(call, thinking_fields(style, False, kwargs))
    unasked = yield from _tokens(call, thinking_fields(ThinkingStyle(), None, kwargs))
    found = _compared(style, on, off, unasked)
    if found.reacts is not None:  # what failed this time may be answered the next
        call.remember(subject, found)
    return found


def takes_tools(call: Call) -> Steps[bool]:
    """Whether the chat template shows tools to the model."""
    if (known := call.recall("takes tools", bool)) is not None:
        return known
    without = yield from call.ask("/tokenize", {"messages": _SAMPLE})
    offered = yield from call.ask("/tokenize", {"messages": _SAMPLE, "tools": _TOOLS})
    if not (without.ok and offered.ok):
        return False
    found = decode(without.body, Tokens, call.url).count != decode(offered.body, Tokens, call.url).count
    call.remember("takes tools", found)
    return found


def takes_images(call: Call) -> Steps[bool]:
    """Whether the server renders an image: for a model that can't see, it refuses to."""
    if (known := call.recall("takes images", bool)) is not None:
        return known
    shown = [{"role": "user", "content": content("hi", [_PIXEL])}]
    reply = yield from call.ask("/tokenize", {"messages": shown})
    if reply.status < 500:
        call.remember("takes images", reply.ok)
    return reply.ok


def _compared(style: ThinkingStyle, on: Tokens | None, off: Tokens | None, unasked: Tokens | None) -> Rendering:
    if on is None or off is None or unasked is None:
        return Rendering(None, None, None)
    reacts = on.tokens != off.tokens
    thinks = True if _opens(unasked, style) else (on.tokens == unasked.tokens if reacts else None)
    return Rendering(reacts, _opens(on, style), thinks)


def _opens(tokens: Tokens, style: ThinkingStyle) -> bool:
    return "".join(tokens.token_strs or ()).rstrip(_BLANKS).endswith(style.tags[0])


def _tokens(call: Call, extra: JsonObject) -> Steps[Tokens | None]:
    payload: JsonObject = {"messages": _SAMPLE, "return_token_strs": True}
    if "chat_template_kwargs" in extra:
        payload["chat_template_kwargs"] = extra["chat_template_kwargs"]
    try:
        reply = yield from call.ask("/tokenize", payload)
    except (httpx.HTTPError, ResponseError):
        return None  # a stream may have begun: this must not end it
    return decode(reply.body, Tokens, call.url) if reply.ok else None
