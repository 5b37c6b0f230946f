"""What all prompts have in common: what to send, what to count, how to shorten, how to read the reply.

Chat, raw prompt, `context`, `suffix` and Go-template prompts implement `Prompt` (prompts.py, template_prompt.py), and
pipeline.py generates text from any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ..steps import JsonObject
from .reader import ReplyFormat

Messages: TypeAlias = Sequence[Mapping[str, Any]]

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"


class Prompt(Protocol):
    """A prompt, its endpoint and the format of its reply."""

    @property
    def path(self) -> str:
        """vLLM's endpoint."""
        ...

    @property
    def reply(self) -> ReplyFormat:
        """How to read the reply."""
        ...

    @property
    def droppable(self) -> int:
        """How many of the oldest messages may be dropped; 0: the prompt can only be cut."""
        ...

    def fields(self) -> JsonObject:
        """What to send: the fields of the request that hold the prompt."""
        ...

    def countable(self) -> JsonObject | list[int]:
        """What to count: the fields for vLLM's `/tokenize`, or the tokens themselves."""
        ...

    def surely_fits(self, limit: int) -> bool:
        """Whether the prompt has at most `limit` tokens, without a request: a token has at least one byte."""
        ...

    def without_oldest(self, number: int, /) -> Prompt:
        """The prompt without its first `number` messages, except for system messages."""
        ...

    @property
    def can_be_cut(self) -> bool:
        """Whether its bare tokens can replace it."""
        ...

    def cut(self, tokens: list[int]) -> Prompt:
        """The prompt cut to `tokens`."""
        ...
