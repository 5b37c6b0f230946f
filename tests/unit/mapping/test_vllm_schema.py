"""Bytes in, events and structs out."""

from __future__ import annotations

import base64
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.mapping.vllm_schema import MAX_EVENT_BYTES, Chunk, EventDecoder, ModelList, decode, vector

URL = "http://vllm:8001"
HTTP = Path(__file__).parents[2] / "http"
RECORDED = [(HTTP / name).read_bytes() for name in ("chat.sse", "tools.sse")]
STRAYS = "\u2028\u2029\u0085\x0b\x0c\x1c".encode()


def events(*pieces: bytes) -> list[bytes]:
    """The events of bytes that come in these pieces."""
    decoder = EventDecoder(URL)
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    """`whole` in pieces."""
    ends = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data:a\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\ndata: b\n", [b"a", b"b"]),
        (b": comment\nevent: x\nid: 1\nretry: 5\n\n", []),
        (b"data:\n\ndata: \n", []),
        (b"\n\n\n", []),
        (b"", []),
        (b"<html>\n<body>\n", []),
        (b"data: " + STRAYS + b"x\n", [STRAYS + b"x"]),
    ],
)
def test_events_are_the_data_lines(stream: bytes, found: list[bytes]) -> None:
    assert events(stream) == found


@pytest.mark.parametrize("recorded", RECORDED, ids=["chat", "tools"])
def test_a_recorded_stream_split_at_any_byte_is_the_same(recorded: bytes) -> None:
    whole = events(recorded)
    assert len(whole) > 8
    assert all(events(recorded[:at], recorded[at:]) == whole for at in range(len(recorded)))


@given(
    st.lists(st.sampled_from([b"data: ", b"data", b":", b"\n", b"\r\n", b"x", STRAYS, "한".encode()])).map(b"".join),
    st.data(),
)
def test_any_bytes_split_in_any_way_are_the_same_events(stream: bytes, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(stream))))
    assert events(*cut(stream, places)) == events(stream)


def test_a_line_that_does_not_end_is_given_up() -> None:
    decoder = EventDecoder(URL)
    half = b"x" * (MAX_EVENT_BYTES // 2 + 1)
    decoder.feed(half)
    with pytest.raises(ResponseError, match=f"{URL} sent a malformed reply: a line of more than {MAX_EVENT_BYTES}"):
        decoder.feed(half)


def test_the_limit_is_of_one_line_and_not_of_a_stream() -> None:
    decoder = EventDecoder(URL)
    begin, end = b"data: " + b"x" * (MAX_EVENT_BYTES // 3), b"\n"
    assert [len(decoder.feed(piece)) for piece in (begin, end) * 4] == [0, 1] * 4


# Structs


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
