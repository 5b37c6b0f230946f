"""Server-sent events from bytes that arrive in pieces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.transport.sse import MAX_EVENT_BYTES, EventDecoder

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
