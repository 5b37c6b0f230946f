"""vLLM's replies as typed structs, and its event streams as events.

Bytes in, structs out; no I/O. `msgspec` reads only the fields that are named here and refuses wrong types, so a
malformed reply is found at once. Fields and endpoints: vLLM 0.32, `GET /openapi.json`.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from typing import Any, TypeVar

import msgspec

from .errors import malformed_reply


class FunctionDelta(msgspec.Struct):
    """A piece of a tool call: the name comes first and whole, the arguments in pieces of JSON text."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct):
    """A piece of the tool call number `index`."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class TokenLogprob(msgspec.Struct):
    """One token and its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities: `content` from chat, the parallel lists from completions."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Delta(msgspec.Struct):
    """What a chat event adds. vLLM before 0.11 said `reasoning_content` for `reasoning`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class Choice(msgspec.Struct):
    """One choice of an event: `delta` from chat, `text` from completions."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Usage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None


class Chunk(msgspec.Struct):
    """One event of `/v1/chat/completions` or `/v1/completions`; `error` when the server failed on the way."""

    choices: list[Choice] = []
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
    error: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class Embedding(msgspec.Struct):
    """One vector, base64 of little-endian float32 (or a plain list from servers that ignore `encoding_format`)."""

    embedding: str | list[float]
    index: int = 0


class Embeddings(msgspec.Struct):
    """The reply of `/v1/embeddings`."""

    data: list[Embedding]
    usage: Usage = msgspec.field(default_factory=Usage)


class Tokens(msgspec.Struct):
    """The reply of `/tokenize`."""

    count: int
    tokens: list[int]
    max_model_len: int | None = None
    token_strs: list[str] | None = None


class DecisionUsage(msgspec.Struct):
    """Token counts of `/v1/systemone`."""

    input_tokens: int
    output_tokens: int


class Decisions(msgspec.Struct):
    """The reply of `/v1/systemone`: answers by the id of their question."""

    answers: dict[str, dict[str, Any]]
    usage: DecisionUsage


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of `/v1/models`."""

    id: str
    created: int = 0
    owned_by: str = ""
    root: str | None = None
    max_model_len: int | None = None


class ModelList(msgspec.Struct):
    """The reply of `/v1/models`."""

    data: list[ModelCard]


T = TypeVar("T")


def decode(body: bytes, shape: type[T], url: str) -> T:
    """`body` as `shape`, or a `ResponseError` that names the server."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise malformed_reply(url, f"{problem} in {_glimpse(body)}" if body else "it is empty") from None


def _glimpse(body: bytes) -> str:
    """What a body looks like, without its text where that may be an answer: a page of a proxy's is shown."""
    start = body.lstrip()[:80]
    return repr(start.decode("utf-8", "replace")) if start.startswith(b"<") else f"{len(body)} bytes"


def vector(embedding: str | list[float], url: str) -> list[float]:
    """The numbers of an embedding, shape `(dimensions,)`."""
    if isinstance(embedding, list):
        return embedding
    try:
        numbers = array("f", base64.b64decode(embedding, validate=True))
    except (binascii.Error, ValueError) as problem:
        raise malformed_reply(url, f"an embedding that is no base64 float32 ({problem})") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
