"""A conversation that does not fit the window loses its oldest messages, as in Ollama.

The system messages and the last message stay (Ollama 0.33, server/prompt.go). Tokens are counted by vLLM's
`/tokenize`, only where the conversation is known or likely to be too long: a call that fits costs no extra request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..exchange import Exchange, Part
from ..wire import Tokens, decode
from .call import Call

Messages = Sequence[Mapping[str, Any]]

_TEMPLATE_BYTES = 64  # what a template may add for each message


def fits(messages: Messages, limit: int) -> bool:
    """Whether the conversation surely has no more than `limit` tokens: a token has at least one byte."""
    size = sum(len((message.get("content") or "").encode("utf-8", "replace")) + _TEMPLATE_BYTES for message in messages)
    return size <= limit


def count(call: Call, rendered: Part) -> Exchange[int | None]:
    """The tokens of a rendered conversation; None where the server does not say."""
    rendered = {key: value for key, value in rendered.items() if key != "reasoning_effort"}
    reply = yield from call.ask("/tokenize", rendered)
    return decode(reply.body, Tokens, call.url).count if reply.ok else None


def shorten(call: Call, messages: Messages, render: Callable[[Messages], Part], limit: int) -> Exchange[Messages]:
    """The conversation without as many of its oldest messages as it takes to be at most `limit` tokens long.

    Each further message that goes makes it shorter, so the first that fits is found by halving.
    """
    low, high = 0, len(messages) - 1
    while low < high:
        middle = (low + high) // 2
        tokens = yield from count(call, render(without_oldest(messages, middle)))
        if tokens is None:
            return messages
        if tokens <= limit:
            high = middle
        else:
            low = middle + 1
    return without_oldest(messages, low)


def without_oldest(messages: Messages, number: int) -> Messages:
    """The messages less the first `number`, of which the system messages stay."""
    kept = [message for message in messages[:number] if message.get("role") == "system"]
    return [*kept, *messages[number:]]
