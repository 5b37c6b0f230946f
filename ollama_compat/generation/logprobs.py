"""Log probabilities and token ids of an event, in Ollama's format.

Chat and completions have different formats of log probabilities (vLLM 0.32). vLLM and Ollama both count the token that
ends the text; Ollama's lists do not have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..mapping.vllm_schema import Choice, Logprobs, TokenLogprob
from ..steps import JsonObject


def _ends_by_token(choice: Choice) -> bool:
    """Whether the last token of the event is the model's end-of-text token, which is not part of the answer."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)


def ids_of(choice: Choice) -> list[int]:
    """The token ids of the answer's text."""
    ids = choice.token_ids or []
    return ids[:-1] if _ends_by_token(choice) else ids


def logprobs_of(choice: Choice, top: int) -> list[JsonObject]:
    """The tokens of the answer's text with log probabilities, each with its `top` most likely alternatives."""
    if choice.logprobs is None:
        return []
    tokens = [_logprob(token, top) for token in _tokens(choice.logprobs)]
    return tokens[:-1] if _ends_by_token(choice) else tokens


def _tokens(logprobs: Logprobs) -> Iterator[TokenLogprob]:
    """The tokens in either format: the objects of chat, or the parallel lists of completions."""
    if logprobs.content is not None:
        yield from logprobs.content
        return
    tops = logprobs.top_logprobs or []
    for i, (token, value) in enumerate(zip(logprobs.tokens or [], logprobs.token_logprobs or [], strict=False)):
        top = tops[i] if i < len(tops) else None
        likeliest = sorted((top or {}).items(), key=lambda item: -item[1])
        alternatives = [TokenLogprob(text, number) for text, number in likeliest]
        yield TokenLogprob(token, value if value is not None else 0.0, None, alternatives)


def _logprob(token: TokenLogprob, top: int = 0) -> JsonObject:
    part: dict[str, Any] = {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": token.bytes if token.bytes is not None else list(token.token.encode()),
    }
    if token.top_logprobs and top:
        part["top_logprobs"] = [_logprob(other) for other in token.top_logprobs[:top]]
    return part
