"""`embed` and `embeddings` on a real vLLM server."""

from __future__ import annotations

import math

import pytest

import ollama_compat as ollama

pytestmark = pytest.mark.vllm

# The first values of the vector that Ollama returns for "hello world" with the same weights.
HELLO = [-0.034476, 0.030891, 0.006693, 0.026028, -0.039417, -0.160466, 0.066862, -0.006578]
TOO_LONG = "hello world " * 3000


@pytest.fixture
def ask(connect, embed_server):
    return connect(vllm_urls=embed_server.url)


def test_embed_returns_ollamas_vector(ask):
    reply = ask.embed("minilm", "hello world")
    assert isinstance(reply, ollama.EmbedResponse)
    (vector,) = reply.embeddings
    assert len(vector) == 384
    assert vector[:8] == pytest.approx(HELLO, abs=2e-3)
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)
    assert (reply.model, reply.prompt_eval_count) == ("minilm", 4)
    assert 0 < reply.load_duration < reply.total_duration


def test_embed_keeps_the_order_of_many_texts(ask):
    texts = [f"number {i}" for i in range(40)]
    together = ask.embed("minilm", texts).embeddings
    assert len(together) == 40
    alone = ask.embed("minilm", texts[17]).embeddings[0]
    assert together[17] == pytest.approx(alone, abs=1e-4)


def test_embed_returns_no_embedding_for_empty_input(ask):
    assert ask.embed("minilm", "").embeddings == []
    assert ask.embed("minilm", []).embeddings == []
    assert ask.embeddings("minilm", "").embedding == []
    assert len(ask.embed("minilm", ["a", ""]).embeddings) == 2


@pytest.mark.parametrize(("dimensions", "length"), [(64, 64), (4096, 384), (-1, 384), (0, 384)])
def test_dimensions_shortens_and_normalizes_the_vector(ask, dimensions, length):
    (vector,) = ask.embed("minilm", "hello world", dimensions=dimensions).embeddings
    assert len(vector) == length
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)


def test_embed_truncates_a_long_text_unless_truncate_is_false(ask):
    for truncate in (None, True):
        assert len(ask.embed("minilm", TOO_LONG, truncate=truncate).embeddings[0]) == 384
    with pytest.raises(ollama.ResponseError) as raised:
        ask.embed("minilm", TOO_LONG, truncate=False)
    assert (raised.value.error, raised.value.status_code) == ("the input length exceeds the context length", 400)


def test_num_ctx_truncates_at_fewer_tokens(ask):
    short = ask.embed("minilm", TOO_LONG, options={"num_ctx": 64})
    assert short.prompt_eval_count == 64


def test_embeddings_returns_one_vector_and_rejects_long_text(ask):
    reply = ask.embeddings("minilm", "hello world")
    assert isinstance(reply, ollama.EmbeddingsResponse)
    assert reply.embedding[:8] == pytest.approx(HELLO, abs=2e-3)
    with pytest.raises(ollama.ResponseError) as raised:
        ask.embeddings("minilm", TOO_LONG)
    assert (raised.value.error, raised.value.status_code) == ("the input length exceeds the context length", 500)


@pytest.mark.parametrize("call", ["embed", "embeddings"])
def test_unknown_model_returns_404(ask, call):
    with pytest.raises(ollama.ResponseError) as raised:
        getattr(ask, call)("nope", "x")
    assert (raised.value.error, raised.value.status_code) == ('model "nope" not found, try pulling it first', 404)


def test_embed_returns_501_for_a_chat_model(connect, chat_server):
    with pytest.raises(ollama.ResponseError) as raised:
        connect(vllm_urls=chat_server.url).embed("smol", "x")
    assert raised.value.status_code == 501
    assert raised.value.error == "This server does not support embeddings. Start it with `--embeddings`"
