"""`/api/embed` and `/api/embeddings` on `/v1/embeddings`."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.embed import embed, embeddings, unit
from tests.play import MODEL_MISSING, NO_SUCH_PATH, SECOND, URL, Play, call, play, refused, reply

KURE = ModelCard("kure", max_model_len=256)
TOO_LONG = refused("This model's maximum context length is 256 tokens.", param="input_text")


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def vectors(*lists: tuple[float, ...], tokens: int = 2) -> Any:
    """A reply with these vectors."""
    data = [{"index": index, "embedding": packed(*numbers)} for index, numbers in enumerate(lists)]
    return reply({"data": data, "usage": {"prompt_tokens": tokens}})


def run_embed(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    return play(embed(call("/api/embed", body, card=KURE, model="kure", **changes)), *script)


def run_embeddings(body: dict[str, Any], *script: Any) -> Play:
    return play(embeddings(call("/api/embeddings", body, card=KURE, model="kure")), *script)


def refusal(run: Any, body: dict[str, Any], *script: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        run(body, *script)
    return caught.value.error, caught.value.status_code


# embed


@pytest.mark.parametrize(("texts", "sent"), [("hi", ["hi"]), (["a", "b"], ["a", "b"]), (["", "b"], ["", "b"])])
def test_all_texts_are_one_request(texts: Any, sent: list[str]) -> None:
    played = run_embed({"input": texts}, vectors(*[(1.0, 0.0)] * len(sent)))
    assert played.paths == ["/v1/embeddings"]
    assert played.payload == {
        "model": "kure",
        "input": sent,
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
        "truncation_side": "right",
    }


def test_reply_has_vectors_durations_and_count() -> None:
    assert run_embed({"input": ["a", "b"]}, vectors((1.0, 0.0), (0.0, 1.0), tokens=5)).parts == [
        {
            "model": "kure",
            "embeddings": [[1.0, 0.0], [0.0, 1.0]],
            "total_duration": 2 * SECOND,
            "load_duration": SECOND,
            "prompt_eval_count": 5,
        }
    ]


@pytest.mark.parametrize("texts", ["", [], None])
def test_empty_input_returns_no_vectors_without_request(texts: Any) -> None:
    assert run_embed({"input": texts}).parts == [{"model": "kure", "embeddings": []}]


def test_vectors_have_order_of_texts() -> None:
    data = [{"index": 1, "embedding": packed(0, 1)}, {"index": 0, "embedding": packed(1, 0)}]
    assert run_embed({"input": ["a", "b"]}, reply({"data": data})).parts[0]["embeddings"] == [[1, 0], [0, 1]]


def test_vector_is_normalized() -> None:
    assert run_embed({"input": "a"}, vectors((3.0, 4.0))).parts[0]["embeddings"] == [pytest.approx([0.6, 0.8])]


def test_dimensions_shorten_and_normalize_vector_on_client() -> None:
    played = run_embed({"input": "a", "dimensions": 2}, vectors((3.0, 4.0, 12.0)))
    assert played.parts[0]["embeddings"] == [pytest.approx([0.6, 0.8])]
    assert "dimensions" not in played.payload


@pytest.mark.parametrize("dimensions", [None, 0, 5])
def test_dimensions_without_effect_keep_vector(dimensions: int | None) -> None:
    assert run_embed({"input": "a", "dimensions": dimensions}, vectors((1.0, 0.0))).parts[0]["embeddings"] == [
        [1.0, 0.0]
    ]


@pytest.mark.parametrize(
    ("body", "cut"),
    [
        ({}, -1),
        ({"truncate": True}, -1),
        ({"options": {"num_ctx": 100}}, 100),
        ({"options": {"num_ctx": 256}}, -1),
        ({"options": {"num_ctx": 9999}}, -1),
        ({"options": {"num_ctx": 0}}, -1),
        ({"truncate": False}, None),
        ({"truncate": False, "options": {"num_ctx": 100}}, None),
    ],
)
def test_truncate_and_num_ctx_limit_prompt_tokens(body: dict[str, Any], cut: int | None) -> None:
    assert run_embed({"input": "a", **body}, vectors((1.0,))).payload.get("truncate_prompt_tokens") == cut


def test_options_of_profile_apply() -> None:
    played = run_embed({"input": "a"}, vectors((1.0,)), profile={"parameters": {"num_ctx": 64}})
    assert played.payload["truncate_prompt_tokens"] == 64


# embeddings


def test_embeddings_returns_vector_without_normalization() -> None:
    played = run_embeddings({"prompt": "a"}, vectors((3.0, 4.0)))
    assert played.parts == [{"embedding": [3.0, 4.0]}]
    assert played.payload == {"model": "kure", "input": ["a"], "encoding_format": "base64"}


def test_embeddings_of_empty_prompt_returns_no_vector() -> None:
    assert run_embeddings({"prompt": ""}).parts == [{"embedding": []}]


# Errors


@pytest.mark.parametrize(("run", "status"), [(run_embed, 400), (run_embeddings, 500)])
def test_too_long_text_is_refused_when_truncate_is_false(run: Any, status: int) -> None:
    assert refusal(run, {"input": "a", "prompt": "a", "truncate": False}, TOO_LONG) == (
        "the input length exceeds the context length",
        status,
    )


@pytest.mark.parametrize("run", [run_embed, run_embeddings])
def test_chat_model_is_refused(run: Any) -> None:
    assert refusal(run, {"input": "a", "prompt": "a"}, NO_SUCH_PATH) == (
        "This server does not support embeddings. Start it with `--embeddings`",
        501,
    )


@pytest.mark.parametrize("wrong", [5, [1], {"a": 1}, ["a", 1], ["a", None]])
def test_invalid_input_type_is_refused(wrong: Any) -> None:
    assert refusal(run_embed, {"input": wrong}) == ("invalid input type", 400)


@pytest.mark.parametrize("run", [run_embed, run_embeddings])
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"keep_alive": "soon"}, 'time: invalid duration "soon"'),
        ({"options": {"num_ctx": "big"}}, 'option "num_ctx" must be of type integer'),
    ],
)
def test_keep_alive_and_options_are_checked(run: Any, field: dict[str, Any], text: str) -> None:
    assert refusal(run, {"input": "a", "prompt": "a", **field})[0] == text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_vector_with_nan_or_inf_is_refused(number: float) -> None:
    assert refusal(run_embed, {"input": "a"}, vectors((number, 1.0))) == ("embedding contains NaN or Inf values", 500)


def test_missing_vector_raises_error() -> None:
    assert refusal(run_embed, {"input": ["a", "b"]}, vectors((1.0,))) == (
        f"{URL} returned 1 embeddings for 2 texts",
        500,
    )


def test_missing_model_raises_model_gone() -> None:
    with pytest.raises(Exception, match="does not exist") as caught:
        run_embed({"input": "a"}, MODEL_MISSING)
    assert type(caught.value).__name__ == "ModelGone"


# Unit vectors


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1).filter(lambda numbers: math.hypot(*numbers) > 1e-3))
def test_unit_returns_vector_of_length_one(numbers: list[float]) -> None:
    assert math.isclose(math.hypot(*unit(numbers)), 1, abs_tol=1e-4)


def test_unit_returns_zero_vector_unchanged() -> None:
    assert unit([0.0, 0.0]) == [0.0, 0.0]


def test_unit_returns_unit_vector_unchanged() -> None:
    assert unit([0.6000001, 0.8]) == [0.6000001, 0.8]
