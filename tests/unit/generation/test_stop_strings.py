"""Stop strings that the client applies."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat.generation.stop_strings import StopFilter, overlap

TEXT = st.text("ab", max_size=4)
STOPS = st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)


def filtered(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    """The output for each piece and at the end, and whether the filter stopped."""
    filter_ = StopFilter(stops)
    out = [filter_.feed(piece) for piece in pieces]
    return [*out, filter_.finish()], filter_.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "out", "stopped"),
    [
        ([], ["a", "b"], ["a", "b", ""], False),
        (["X"], ["a", "b"], ["a", "b", ""], False),
        (["X"], ["aXb", "c"], ["a", "", ""], True),
        (["Paris"], ["The capital is P", "ari", "s."], ["The capital is ", "", "", ""], True),
        (["Paris"], ["P", "ari", "ty"], ["", "", "Parity", ""], False),
        (["Paris"], ["P", "ari"], ["", "", "Pari"], False),
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", "", ""], True),
        (["b", "a"], ["xaxb"], ["x", ""], True),
        (["aab"], ["aa", "ab"], ["", "a", ""], True),
        ([""], ["a", "b"], ["", "", ""], True),
        (["1", "2", "3", "4", "5"], ["a5b"], ["a", ""], True),
        (["한국"], ["대한", "국"], ["대", "", ""], True),
    ],
)
def test_filter_outputs_text_before_first_stop_string(
    stops: list[str], pieces: list[str], out: list[str], stopped: bool
) -> None:
    assert filtered(stops, *pieces) == (out, stopped)


@given(STOPS, st.lists(TEXT))
@example(["aba", "b"], ["ab", "a"])  # a stop string within the beginning of another
def test_output_does_not_depend_on_chunks(stops: list[str], pieces: list[str]) -> None:
    (split, split_stopped), (whole, whole_stopped) = filtered(stops, *pieces), filtered(stops, "".join(pieces))
    assert ("".join(split), split_stopped) == ("".join(whole), whole_stopped)


@given(STOPS, st.lists(TEXT))
def test_output_contains_no_stop_string(stops: list[str], pieces: list[str]) -> None:
    out, stopped = filtered(stops, *pieces)
    assert not any(stop in "".join(out) for stop in stops)
    assert stopped is any(stop in "".join(pieces) for stop in stops)


@pytest.mark.parametrize(
    ("text", "marker", "length"),
    [
        ("ab", "bc", 1),
        ("abc", "bcd", 2),
        ("abc", "abc", 0),
        ("aa", "aaa", 2),
        ("x", "ab", 0),
        ("", "ab", 0),
        ("a", "", 0),
    ],
)
def test_overlap_is_longest_suffix_that_starts_marker(text: str, marker: str, length: int) -> None:
    assert overlap(text, marker) == length
