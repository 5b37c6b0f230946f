"""What a served model's chat template does, learnt from vLLM's `/tokenize` (0.32), once for each model.

A template is not readable from outside, but its rendering is: whether it reacts to the switch of thinking, and whether
it opens the tag of a thought itself, so that the answer begins in the middle of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..exchange import Exchange, Part
from ..wire import Tokens, decode
from .call import Call
from .thinking import Style, switches

_SAMPLE = [{"role": "user", "content": "hi"}]
_BLANKS = " \t\r\n\u2581\u0120\u010a\u0109"  # white space, as text and as byte-level and sentence-piece tokens write it


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the template renders a thinking prompt. None: the server would not say."""

    reacts: bool | None
    """Whether the prompt differs from the one with thinking off."""
    opens: bool | None
    """Whether the prompt ends with the opening tag."""


def rendering(call: Call, style: Style) -> Exchange[Rendering]:
    """Learn the rendering, or remember it."""
    key = (call.url, call.served, f"rendering {style}")
    known = call.memory.facts.get(key)
    if isinstance(known, Rendering):
        return known
    on = yield from _tokens(call, switches(style, True))
    off = yield from _tokens(call, switches(style, False))
    found = Rendering(
        reacts=None if on is None or off is None else on.tokens != off.tokens,
        opens=None if on is None else "".join(on.token_strs or ()).rstrip(_BLANKS).endswith(style.tags[0]),
    )
    call.memory.facts[key] = found
    return found


def _tokens(call: Call, extra: dict[str, Any]) -> Exchange[Tokens | None]:
    kwargs = extra.get("chat_template_kwargs")
    payload: Part = {"messages": _SAMPLE, "return_token_strs": True}
    if kwargs:
        payload["chat_template_kwargs"] = kwargs
    reply = yield from call.ask("/tokenize", payload)
    return decode(reply.body, Tokens, call.url) if reply.ok else None
