"""Fits a prompt to a context window, as Ollama does.

A conversation loses its oldest messages; the system messages and the last message stay (Ollama 0.33, server/prompt.go).
A prompt that is still too long loses tokens from its middle: the first `num_keep` tokens and about half a window of the
last ones stay (llm/llama_server.go). vLLM's `/tokenize` counts the tokens, only for a prompt that is known or likely to
be too long: a call that fits costs no extra request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..call import Call
from ..mapping.ollama_errors import window_exceeded
from ..mapping.vllm_schema import Tokens, decode
from ..steps import JsonObject, Reply, Steps
from .protocol import Messages, Prompt


def fit(call: Call, prompt: Prompt, *, limit: int, window: int, keep: int) -> Steps[Prompt]:
    """The prompt with at most `limit` tokens if messages can be dropped, otherwise cut to `window` tokens.

    `keep`: how many tokens stay at the beginning of a prompt that is cut. The prompt is returned unchanged if the
    server has no `/tokenize`. Raises Ollama's 400 for a prompt that is too long and cannot be cut.
    """
    prompt = yield from _drop_oldest(call, prompt, limit)
    countable = prompt.countable()
    tokens = countable if isinstance(countable, list) else (yield from tokenize(call, countable))
    if tokens is None or len(tokens) < window:
        return prompt
    if not prompt.can_be_cut:
        raise window_exceeded(len(tokens), window)
    return prompt.cut(cut_middle(tokens, window, keep))


def tokenize(call: Call, countable: JsonObject) -> Steps[list[int] | None]:
    """The tokens of a rendered conversation or of a text; None: the server does not return them."""
    reply = yield from _tokenized(call, countable)
    return decode(reply.body, Tokens, call.url).tokens if reply.ok else None


def without_oldest(messages: Messages, number: int) -> Messages:
    """The messages without the first `number`, except for the system messages among them."""
    kept = [message for message in messages[:number] if is_system(message)]
    return [*kept, *messages[number:]]


def is_system(message: Mapping[str, Any]) -> bool:
    """Whether a message is a system message."""
    return bool(message.get("role") == "system")


def cut_middle(tokens: Sequence[int], window: int, keep: int) -> list[int]:
    """The tokens that Ollama keeps of a prompt that does not fit `window` tokens; all of them if it fits."""
    if len(tokens) < window or window <= 1:
        return list(tokens)
    keep = min(len(tokens) if keep < 0 else keep, window - 1)
    limit = window - max((window - keep) // 2, 1)
    return [*tokens[:keep], *tokens[len(tokens) - (limit - keep) :]]


def _drop_oldest(call: Call, prompt: Prompt, limit: int) -> Steps[Prompt]:
    """The prompt without as many of its oldest messages as it takes to have at most `limit` tokens.

    Each dropped message makes the prompt shorter, so a binary search finds the first one that fits.
    """
    low, high = 0, prompt.droppable
    while low < high:
        middle = (low + high) // 2
        fits = yield from _fits(call, prompt.without_oldest(middle), limit)
        if fits is None:
            return prompt
        if fits:
            high = middle
        else:
            low = middle + 1
    return prompt.without_oldest(low) if low else prompt


def _fits(call: Call, prompt: Prompt, limit: int) -> Steps[bool | None]:
    """Whether a prompt has at most `limit` tokens; None: the server does not return the count.

    A conversation that the chat template refuses, such as one that begins with an answer, does not fit.
    """
    countable = prompt.countable()
    if isinstance(countable, list):
        return len(countable) <= limit
    reply = yield from _tokenized(call, countable)
    if reply.status == 400:
        return False
    return len(decode(reply.body, Tokens, call.url).tokens) <= limit if reply.ok else None


def _tokenized(call: Call, countable: JsonObject) -> Steps[Reply]:
    accepted = {key: value for key, value in countable.items() if key != "reasoning_effort"}
    return (yield from call.post("/tokenize", accepted))
