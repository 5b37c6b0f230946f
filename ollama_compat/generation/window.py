"""What does not fit the window is shortened, as in Ollama.

A conversation loses its oldest messages; the system messages and the last message stay (Ollama 0.33,
server/prompt.go). A prompt that is too long all the same loses tokens from its middle: the first `num_keep` and about
half a window of the last ones stay (llm/llama_server.go). Tokens are counted by vLLM's `/tokenize`, only where a prompt
is known or likely to be too long: a call that fits costs no extra request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..call import Call
from ..mapping.vllm_schema import Tokens, decode
from ..steps import JsonObject, Reply, Steps

Messages = Sequence[Mapping[str, Any]]

_TEMPLATE_BYTES = 64  # what a template may add for each message


def fits(rendered: JsonObject, limit: int) -> bool:
    """Whether the conversation has hardly more than `limit` tokens: a token has at least a byte. Images have many."""
    messages = rendered["messages"]
    if any(isinstance(message["content"], list) for message in messages):
        return False
    return len(msgspec.json.encode(rendered)) + _TEMPLATE_BYTES * len(messages) <= limit


def prompt_fits(prompt: str, limit: int) -> bool:
    """Whether the prompt surely has no more than `limit` tokens."""
    return len(prompt.encode("utf-8", "replace")) < limit


def tokenize(call: Call, rendered: JsonObject) -> Steps[list[int] | None]:
    """The tokens of a rendered conversation or of a prompt; None where the server does not say."""
    reply = yield from _tokenized(call, rendered)
    return decode(reply.body, Tokens, call.url).tokens if reply.ok else None


def shorten(call: Call, messages: Messages, render: Callable[[Messages], JsonObject], limit: int) -> Steps[Messages]:
    """The conversation without as many of its oldest messages as it takes to be at most `limit` tokens long.

    Each further message that goes makes it shorter, so the first that fits is found by halving.
    """
    low, high = 0, len(messages) - 1
    while low < high:
        middle = (low + high) // 2
        fitting = yield from _fitting(call, render(without_oldest(messages, middle)), limit)
        if fitting is None:
            return messages
        if fitting:
            high = middle
        else:
            low = middle + 1
    return without_oldest(messages, low)


def _fitting(call: Call, rendered: JsonObject, limit: int) -> Steps[bool | None]:
    """Whether it fits; None: the server does not say. What its template refuses, such as a conversation that begins
    with an answer, does not fit."""
    reply = yield from _tokenized(call, rendered)
    if reply.status == 400:
        return False
    return len(decode(reply.body, Tokens, call.url).tokens) <= limit if reply.ok else None


def _tokenized(call: Call, rendered: JsonObject) -> Steps[Reply]:
    rendered = {key: value for key, value in rendered.items() if key != "reasoning_effort"}
    return (yield from call.ask("/tokenize", rendered))


def without_oldest(messages: Messages, number: int) -> Messages:
    """The messages less the first `number`, of which the system messages stay."""
    kept = [message for message in messages[:number] if message.get("role") == "system"]
    return [*kept, *messages[number:]]


def cut(tokens: Sequence[int], window: int, keep: int) -> list[int]:
    """The tokens that Ollama keeps of a prompt that does not fit `window` tokens; all of them where it does."""
    if len(tokens) < window or window <= 1:
        return list(tokens)
    keep = min(len(tokens) if keep < 0 else keep, window - 1)
    limit = window - max((window - keep) // 2, 1)
    return [*tokens[:keep], *tokens[len(tokens) - (limit - keep) :]]
