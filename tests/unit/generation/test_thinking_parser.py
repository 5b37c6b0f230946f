"""Thinking between tags in text that arrives in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat.generation.thinking_parser import ThinkingParser
from ollama_compat.mapping.model_families import THINK_TAGS


def told(pieces: list[str], *, opened: bool = False, tags: tuple[str, str] = THINK_TAGS) -> tuple[str, str]:
    """The thoughts and the answer of a text in pieces."""
    splitter = ThinkingParser(tags, opened=opened)
    settled = [*map(splitter.feed, pieces), splitter.finish()]
    return "".join(thought for thought, _ in settled), "".join(answer for _, answer in settled)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Hi", "", "Hi"),
        ("", "", ""),
        ("<think>Two and one.\n</think>\n4", "Two and one.\n", "4"),
        ("\n <think>\n\na</think>\n\nb", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think>\n\n</think>\n\nb", "", "b"),
        ("<think>a", "a", ""),
        ("<think>a</thi", "a</thi", ""),
        ("<thin", "", "<thin"),
        ("<thinking>a", "", "<thinking>a"),
        ("a<think>b</think>c", "", "a<think>b</think>c"),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        ("</think>b", "", "</think>b"),
        ("  Hi", "", "  Hi"),
        ("<think>a</think>  ", "a", ""),
    ],
)
def test_a_text_with_tags(text: str, thought: str, answer: str) -> None:
    assert told([text]) == (thought, answer)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Two and one.\n</think>\n4", "Two and one.\n", "4"),
        ("\nTwo", "Two", ""),
        ("</think>4", "", "4"),
        ("a<think>b</think>c", "a<think>b", "c"),
    ],
)
def test_a_text_that_begins_within_a_thought(text: str, thought: str, answer: str) -> None:
    assert told([text], opened=True) == (thought, answer)


def test_a_family_may_have_tags_of_its_own() -> None:
    assert told(["[THINK]a[/THINK]b"], tags=("[THINK]", "[/THINK]")) == ("a", "b")


def test_an_answer_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS).feed("Hi") == ("", "Hi")


def test_a_thought_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS, opened=True).feed("Well") == ("Well", "")


PIECE = st.sampled_from(
    ["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "한", "<th", "ink>", "</thi", "nk>"]
)


@given(st.lists(PIECE, max_size=10), st.booleans())
@example(["<think>", "\n", "a", "</thi", "nk>", "\n", "b"], False)
def test_a_text_split_in_any_way_is_told_the_same(pieces: list[str], opened: bool) -> None:
    whole = told(["".join(pieces)], opened=opened)
    assert told(pieces, opened=opened) == whole
    assert told(list("".join(pieces)), opened=opened) == whole
