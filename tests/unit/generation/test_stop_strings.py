"""Stop strings that are cut off on this side."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat.generation.stop_strings import StopFilter, overlap

TEXT = st.text("ab", max_size=4)
STOPS = st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)


def passed(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    """What is passed on of each piece and at the end, and whether it stopped."""
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
def test_text_goes_on_until_the_first_stop_string(
    stops: list[str], pieces: list[str], out: list[str], stopped: bool
) -> None:
    assert passed(stops, *pieces) == (out, stopped)


@given(STOPS, st.lists(TEXT))
@example(["aba", "b"], ["ab", "a"])  # a stop string within the beginning of another
def test_text_split_in_any_way_is_cut_at_the_same_place(stops: list[str], pieces: list[str]) -> None:
    (split, split_stopped), (whole, whole_stopped) = passed(stops, *pieces), passed(stops, "".join(pieces))
    assert ("".join(split), split_stopped) == ("".join(whole), whole_stopped)


@given(STOPS, st.lists(TEXT))
def test_no_stop_string_is_passed_on(stops: list[str], pieces: list[str]) -> None:
    out, stopped = passed(stops, *pieces)
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
def test_the_longest_end_of_a_text_that_begins_a_marker(text: str, marker: str, length: int) -> None:
    assert overlap(text, marker) == length
