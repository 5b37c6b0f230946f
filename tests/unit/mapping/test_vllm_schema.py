"""vLLM's replies as typed structs."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.mapping.vllm_schema import Chunk, ModelList, decode, vector

URL = "http://vllm:8001"
HTTP = Path(__file__).parents[2] / "http"
RECORDED = [(HTTP / name).read_bytes() for name in ("chat.sse", "tools.sse")]
STRAYS = "\u2028\u2029\u0085\x0b\x0c\x1c".encode()


def test_fields_that_are_not_named_are_skipped() -> None:
    chunk = decode(b'{"id": "x", "choices": [{"delta": {"content": "Hi", "new": {}}, "new": 1}]}', Chunk, URL)
    assert chunk.choices[0].delta is not None
    assert chunk.choices[0].delta.content == "Hi"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"<html>",
        b'{"data": 1}',
        b'{"data": [{}]}',
        b'{"data": [{"id": null}]}',
        b"\xff",
        b"[" * 9999,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_malformed_is_an_error_that_names_the_server(body: bytes) -> None:
    with pytest.raises(ResponseError, match=rf"{URL} sent a malformed reply: .*Is it a vLLM server?"):
        decode(body, ModelList, URL)


def test_an_error_quotes_the_beginning_of_what_came() -> None:
    with pytest.raises(ResponseError, match=r"<html>x{74}'"):
        decode(b"<html>" + b"x" * 1000, ModelList, URL)


# Vectors


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_a_vector_travels_as_base64_of_little_endian_float32(numbers: list[float]) -> None:
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    assert vector(packed, URL) == numbers


def test_a_vector_of_plain_numbers_is_taken_too() -> None:
    assert vector([0.5, 1.0], URL) == [0.5, 1.0]


@pytest.mark.parametrize("wrong", ["AAA", "AAA=", "not base64!", "AAAAAAA="])
def test_a_vector_that_is_none_is_an_error(wrong: str) -> None:
    with pytest.raises(ResponseError, match=f"{URL} sent a malformed reply: an embedding that is no base64 float32"):
        vector(wrong, URL)
