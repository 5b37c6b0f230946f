"""`/api/embed` and the older `/api/embeddings` on `/v1/embeddings`.

Vectors travel as base64 float32, a third of the size of JSON numbers. Ollama returns unit vectors from `embed`, cuts
them to `dimensions` and normalizes them again; vLLM cuts only for Matryoshka models, so the client does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..call import Call
from ..exceptions import ModelGone
from ..generation.request import notice_unused
from ..mapping import options
from ..mapping.ollama_errors import response_error
from ..mapping.refusals import refusal
from ..mapping.validation import check_keep_alive, context_limit
from ..mapping.vllm_schema import Embeddings, decode, vector
from ..steps import JsonObject, Steps

_WINDOW = -1  # vLLM's `truncate_prompt_tokens` for the whole window of the model
_TOLERANCE = 1e-4  # how far the length of a unit vector may be from 1: float32 sums are not more exact


def embed(call: Call) -> Steps[None]:
    """Vectors for one text or many: `embeddings`, shape `(texts, dimensions)`."""
    body, clock = call.body, call.context.clock
    texts = _texts(body.get("input"))
    check_keep_alive(body.get("keep_alive"))
    resolved = options.resolve(body.get("options"), call.profile.parameters)
    notice_unused(call, resolved)
    if not texts:
        yield {"model": call.name, "embeddings": []}
        return
    cut = None
    if body.get("truncate") is not False:
        cut = context_limit(resolved.get("num_ctx"), call.window) or _WINDOW
    sent_at = clock.ticks()
    vectors, tokens = yield from _vectors(call, texts, cut)
    yield {
        "model": call.name,
        "embeddings": [unit(_first(numbers, body.get("dimensions"))) for numbers in vectors],
        "total_duration": clock.ticks() - call.started,
        "load_duration": sent_at - call.started,
        "prompt_eval_count": tokens,
    }


def embeddings(call: Call) -> Steps[None]:
    """The older endpoint: one text, one vector as the server returns it, never cut."""
    check_keep_alive(call.body.get("keep_alive"))
    notice_unused(call, options.resolve(call.body.get("options"), call.profile.parameters))
    prompt = call.body.get("prompt") or ""
    if not prompt:
        yield {"embedding": []}
        return
    vectors, _ = yield from _vectors(call, [prompt], None)
    yield {"embedding": vectors[0]}


def unit(numbers: list[float]) -> list[float]:
    """The vector with length 1. A vector of zeros is returned unchanged. Raises Ollama's 500 for NaN and infinity."""
    length = math.hypot(*numbers)
    if not math.isfinite(length):
        raise response_error("embedding contains NaN or Inf values", 500)
    if length == 0 or abs(length - 1) < _TOLERANCE:
        return numbers
    return [number / length for number in numbers]


def _vectors(call: Call, texts: Sequence[str], cut: int | None) -> Steps[tuple[list[list[float]], int]]:
    """The vectors of the texts, in order, and the number of tokens. `cut`: how many tokens of a text count."""
    payload: JsonObject = {"input": list(texts), "encoding_format": "base64"}
    if cut is not None:
        payload |= {"truncate_prompt_tokens": cut, "truncation_side": "right"}
    reply = yield from call.post("/v1/embeddings", payload)
    if not reply.ok:
        raise _explain(call, reply.status, reply.body)
    answer = decode(reply.body, Embeddings, call.url)
    if len(answer.data) != len(texts):
        raise response_error(f"{call.url} returned {len(answer.data)} embeddings for {len(texts)} texts", 500)
    call.progress.tokens_in = answer.usage.prompt_tokens
    ordered = sorted(answer.data, key=lambda item: item.index)
    return [vector(item.embedding, call.url) for item in ordered], answer.usage.prompt_tokens


def _explain(call: Call, status: int, body: bytes) -> Exception:
    refused = refusal(call.url, status, body)
    if refused.model_missing:
        return ModelGone(refused.message)
    if refused.endpoint_missing:
        return response_error("This server does not support embeddings. Start it with `--embeddings`", 501)
    if refused.too_long:
        # Ollama's two endpoints differ in the status.
        return response_error("the input length exceeds the context length", 400 if call.path == "/api/embed" else 500)
    return refused.error()


def _texts(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    raise response_error("invalid input type", 400)


def _first(numbers: list[float], dimensions: int | None) -> list[float]:
    return numbers[:dimensions] if dimensions and dimensions > 0 else numbers
