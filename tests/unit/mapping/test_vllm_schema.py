"""Decoding of vLLM's replies."""

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
LINE_ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c".encode()


def test_decode_skips_unknown_fields() -> None:
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
def test_decode_names_the_server_if_the_reply_is_malformed(body: bytes) -> None:
    with pytest.raises(ResponseError, match=rf"{URL} sent a malformed reply: .*Please check that it is a vLLM server"):
        decode(body, ModelList, URL)


def test_decode_quotes_the_start_of_an_html_page() -> None:
    with pytest.raises(ResponseError, match=r"<html>x{74}'"):
        decode(b"<html>" + b"x" * 1000, ModelList, URL)


# Vectors


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_vector_is_decoded_from_base64_of_little_endian_float32(numbers: list[float]) -> None:
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    assert vector(packed, URL) == numbers


def test_vector_accepts_plain_numbers() -> None:
    assert vector([0.5, 1.0], URL) == [0.5, 1.0]


@pytest.mark.parametrize("wrong", ["AAA", "AAA=", "not base64!", "AAAAAAA="])
def test_vector_raises_malformed_reply_if_it_is_not_base64_float32(wrong: str) -> None:
    with pytest.raises(ResponseError, match=f"{URL} sent a malformed reply: an embedding that is not base64 float32"):
        vector(wrong, URL)
