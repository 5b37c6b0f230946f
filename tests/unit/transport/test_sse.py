"""Server-sent events from bytes that arrive in chunks."""

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
LINE_ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c".encode()


def events(*chunks: bytes) -> list[bytes]:
    """The events in a stream that arrives in these chunks."""
    decoder = EventDecoder(URL)
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()


def split(whole: bytes, offsets: list[int]) -> list[bytes]:
    """`whole` in chunks that end at `offsets`."""
    ends = sorted({0, len(whole), *(offset % (len(whole) + 1) for offset in offsets)})
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
        (b"data: " + LINE_ENDS + b"x\n", [LINE_ENDS + b"x"]),
    ],
)
def test_event_decoder_returns_the_data_lines(stream: bytes, found: list[bytes]) -> None:
    assert events(stream) == found


@pytest.mark.parametrize("recorded", RECORDED, ids=["chat", "tools"])
def test_recorded_stream_decodes_equally_when_split_at_any_byte(recorded: bytes) -> None:
    whole = events(recorded)
    assert len(whole) > 8
    assert all(events(recorded[:at], recorded[at:]) == whole for at in range(len(recorded)))


@given(
    st.lists(st.sampled_from([b"data: ", b"data", b":", b"\n", b"\r\n", b"x", LINE_ENDS, "한".encode()])).map(b"".join),
    st.data(),
)
def test_events_do_not_depend_on_the_chunks(stream: bytes, data: st.DataObject) -> None:
    offsets = data.draw(st.lists(st.integers(0, len(stream))))
    assert events(*split(stream, offsets)) == events(stream)


def test_line_longer_than_the_maximum_raises_malformed_reply() -> None:
    decoder = EventDecoder(URL)
    half = b"x" * (MAX_EVENT_BYTES // 2 + 1)
    decoder.feed(half)
    with pytest.raises(ResponseError, match=f"{URL} sent a malformed reply: a line of more than {MAX_EVENT_BYTES}"):
        decoder.feed(half)


def test_maximum_applies_to_a_line_and_not_to_the_stream() -> None:
    decoder = EventDecoder(URL)
    start, end = b"data: " + b"x" * (MAX_EVENT_BYTES // 3), b"\n"
    assert [len(decoder.feed(chunk)) for chunk in (start, end) * 4] == [0, 1] * 4
