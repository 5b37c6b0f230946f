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


def ask(body: dict[str, Any], *script: Any, **changes: Any) -> Play:
    return play(embed(call("/api/embed", body, card=KURE, model="kure", **changes)), *script)


def ask_older(body: dict[str, Any], *script: Any) -> Play:
    return play(embeddings(call("/api/embeddings", body, card=KURE, model="kure")), *script)


def refusal(asked: Any, body: dict[str, Any], *script: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        asked(body, *script)
    return caught.value.error, caught.value.status_code


# embed


@pytest.mark.parametrize(("given_", "sent"), [("hi", ["hi"]), (["a", "b"], ["a", "b"]), (["", "b"], ["", "b"])])
def test_one_text_or_many_are_one_request(given_: Any, sent: list[str]) -> None:
    played = ask({"input": given_}, vectors(*[(1.0, 0.0)] * len(sent)))
    assert played.paths == ["/v1/embeddings"]
    assert played.payload == {
        "model": "kure",
        "input": sent,
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
        "truncation_side": "right",
    }


def test_the_answer_has_the_vectors_and_the_counts() -> None:
    assert ask({"input": ["a", "b"]}, vectors((1.0, 0.0), (0.0, 1.0), tokens=5)).parts == [
        {
            "model": "kure",
            "embeddings": [[1.0, 0.0], [0.0, 1.0]],
            "total_duration": 2 * SECOND,
            "load_duration": SECOND,
            "prompt_eval_count": 5,
        }
    ]


@pytest.mark.parametrize("given_", ["", [], None])
def test_no_text_is_no_work(given_: Any) -> None:
    assert ask({"input": given_}).parts == [{"model": "kure", "embeddings": []}]


def test_vectors_come_in_the_order_of_their_texts() -> None:
    data = [{"index": 1, "embedding": packed(0, 1)}, {"index": 0, "embedding": packed(1, 0)}]
    assert ask({"input": ["a", "b"]}, reply({"data": data})).parts[0]["embeddings"] == [[1, 0], [0, 1]]


def test_a_vector_is_made_a_unit_vector() -> None:
    assert ask({"input": "a"}, vectors((3.0, 4.0))).parts[0]["embeddings"] == [pytest.approx([0.6, 0.8])]


def test_dimensions_cut_here_and_make_a_unit_vector_again() -> None:
    played = ask({"input": "a", "dimensions": 2}, vectors((3.0, 4.0, 12.0)))
    assert played.parts[0]["embeddings"] == [pytest.approx([0.6, 0.8])]
    assert "dimensions" not in played.payload


@pytest.mark.parametrize("dimensions", [None, 0, 5])
def test_dimensions_that_cut_nothing(dimensions: int | None) -> None:
    assert ask({"input": "a", "dimensions": dimensions}, vectors((1.0, 0.0))).parts[0]["embeddings"] == [[1.0, 0.0]]


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
def test_how_much_of_a_text_is_kept(body: dict[str, Any], cut: int | None) -> None:
    assert ask({"input": "a", **body}, vectors((1.0,))).payload.get("truncate_prompt_tokens") == cut


def test_a_profiles_options_are_used() -> None:
    played = ask({"input": "a"}, vectors((1.0,)), profile={"parameters": {"num_ctx": 64}})
    assert played.payload["truncate_prompt_tokens"] == 64


# embeddings


def test_the_older_call_gives_the_servers_own_vector() -> None:
    played = ask_older({"prompt": "a"}, vectors((3.0, 4.0)))
    assert played.parts == [{"embedding": [3.0, 4.0]}]
    assert played.payload == {"model": "kure", "input": ["a"], "encoding_format": "base64"}


def test_the_older_call_of_nothing_is_no_work() -> None:
    assert ask_older({"prompt": ""}).parts == [{"embedding": []}]


# Refusals


@pytest.mark.parametrize(("asked", "status"), [(ask, 400), (ask_older, 500)])
def test_too_long_a_text_that_may_not_be_cut(asked: Any, status: int) -> None:
    assert refusal(asked, {"input": "a", "prompt": "a", "truncate": False}, TOO_LONG) == (
        "the input length exceeds the context length",
        status,
    )


@pytest.mark.parametrize("asked", [ask, ask_older])
def test_a_chat_model_is_ollamas_refusal(asked: Any) -> None:
    assert refusal(asked, {"input": "a", "prompt": "a"}, NO_SUCH_PATH) == (
        "This server does not support embeddings. Start it with `--embeddings`",
        501,
    )


@pytest.mark.parametrize("wrong", [5, [1], {"a": 1}, ["a", 1], ["a", None]])
def test_what_is_no_text_is_ollamas_refusal(wrong: Any) -> None:
    assert refusal(ask, {"input": wrong}) == ("invalid input type", 400)


@pytest.mark.parametrize("asked", [ask, ask_older])
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"keep_alive": "soon"}, 'time: invalid duration "soon"'),
        ({"options": {"num_ctx": "big"}}, 'option "num_ctx" must be of type integer'),
    ],
)
def test_what_every_call_checks(asked: Any, field: dict[str, Any], text: str) -> None:
    assert refusal(asked, {"input": "a", "prompt": "a", **field})[0] == text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_vector_with_no_length_is_ollamas_refusal(number: float) -> None:
    assert refusal(ask, {"input": "a"}, vectors((number, 1.0))) == ("embedding contains NaN or Inf values", 500)


def test_a_vector_too_few_is_an_error() -> None:
    assert refusal(ask, {"input": ["a", "b"]}, vectors((1.0,))) == (f"{URL} returned 1 embeddings for 2 texts", 500)


def test_a_model_that_is_gone_is_for_the_dispatcher_to_find_again() -> None:
    with pytest.raises(Exception, match="does not exist") as caught:
        ask({"input": "a"}, MODEL_MISSING)
    assert type(caught.value).__name__ == "ModelGone"


# Length


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1).filter(lambda numbers: math.hypot(*numbers) > 1e-3))
def test_any_vector_becomes_one_of_length_one(numbers: list[float]) -> None:
    assert math.isclose(math.hypot(*unit(numbers)), 1, abs_tol=1e-4)


def test_a_vector_of_zeros_stays() -> None:
    assert unit([0.0, 0.0]) == [0.0, 0.0]


def test_a_unit_vector_is_not_touched() -> None:
    assert unit([0.6000001, 0.8]) == [0.6000001, 0.8]
