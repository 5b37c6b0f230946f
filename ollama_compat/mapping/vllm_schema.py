"""Decodes vLLM's replies into typed structs, and its event streams into events.

`msgspec` reads only the fields that are named here and rejects values of a wrong type, so a malformed reply raises an
error at once. Source of fields and endpoints: vLLM 0.32, `GET /openapi.json`.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from typing import Any, TypeVar

import msgspec

from ..exceptions import MalformedReply
from .errors import malformed_reply


class FunctionDelta(msgspec.Struct):
    """A part of a tool call: first the complete name, then the arguments in fragments of JSON text."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct):
    """A part of the tool call with the number `index`, from 0."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class TokenLogprob(msgspec.Struct):
    """A token and its log probability (natural logarithm)."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities: `content` in chat, the three parallel lists in completions."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Delta(msgspec.Struct):
    """The part of a chat message that one event adds. vLLM before 0.11 names `reasoning` `reasoning_content`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class Choice(msgspec.Struct):
    """One choice of an event: `delta` in chat, `text` in completions."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Usage(msgspec.Struct):
    """Token counts of a request."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None


class Chunk(msgspec.Struct):
    """One event of `/v1/chat/completions` or `/v1/completions`. `error` is set if the server failed in the stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
    error: object = None


class Embedding(msgspec.Struct):
    """A vector: base64 of little-endian float32, or a plain list from a server that ignores `encoding_format`."""

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
    """The reply of `/v1/systemone`: question id -> answer."""

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


DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for a body that does not fit its type."""


def decode(body: bytes, shape: type[T], url: str) -> T:
    """Decode the JSON `body` into `shape`. Raises `MalformedReply` with the `url` of the server."""
    try:
        return msgspec.json.decode(body, type=shape)
    except DECODE_ERRORS as error:
        raise undecodable(body, url, error) from None


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decodes an event of a stream. Raises one of `DECODE_ERRORS`; see `undecodable`."""


def undecodable(body: bytes, url: str, error: Exception) -> MalformedReply:
    """The exception for a body that a decoder refused, with the `url` of the server."""
    return malformed_reply(url, f"{error} in {_excerpt(body)}" if body else "it is empty")


def _excerpt(body: bytes) -> str:
    """The start of an HTML page, which a proxy sends; the size of any other body, which may contain an answer."""
    start = body.lstrip()[:80]
    return repr(start.decode("utf-8", "replace")) if start.startswith(b"<") else f"{len(body)} bytes"


def vector(embedding: str | list[float], url: str) -> list[float]:
    """The numbers of an embedding, shape `(dimensions,)`. Raises `MalformedReply` if it is not base64 float32."""
    if isinstance(embedding, list):
        return embedding
    try:
        numbers = array("f", base64.b64decode(embedding, validate=True))
    except (binascii.Error, ValueError) as error:
        raise malformed_reply(url, f"an embedding that is not base64 float32 ({error})") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
