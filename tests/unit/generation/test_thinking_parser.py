"""The parser of thinking between tags, for text that arrives in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat.generation.thinking_parser import ThinkingParser
from ollama_compat.mapping.model_families import THINK_TAGS


def parse(pieces: list[str], *, opened: bool = False, tags: tuple[str, str] = THINK_TAGS) -> tuple[str, str]:
    """The thinking and the content of a text in pieces."""
    parser = ThinkingParser(tags, opened=opened)
    parts = [*map(parser.feed, pieces), parser.finish()]
    return "".join(thinking for thinking, _ in parts), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
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
def test_parser_separates_thinking_from_content(text: str, thinking: str, content: str) -> None:
    assert parse([text]) == (thinking, content)


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("Two and one.\n</think>\n4", "Two and one.\n", "4"),
        ("\nTwo", "Two", ""),
        ("</think>4", "", "4"),
        ("a<think>b</think>c", "a<think>b", "c"),
    ],
)
def test_parser_starts_in_thinking_when_prompt_opens_it(text: str, thinking: str, content: str) -> None:
    assert parse([text], opened=True) == (thinking, content)


def test_parser_uses_tags_of_family() -> None:
    assert parse(["[THINK]a[/THINK]b"], tags=("[THINK]", "[/THINK]")) == ("a", "b")


def test_content_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS).feed("Hi") == ("", "Hi")


def test_thinking_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS, opened=True).feed("Well") == ("Well", "")


PIECE = st.sampled_from(
    ["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "한", "<th", "ink>", "</thi", "nk>"]
)


@given(st.lists(PIECE, max_size=10), st.booleans())
@example(["<think>", "\n", "a", "</thi", "nk>", "\n", "b"], False)
def test_result_does_not_depend_on_chunks(pieces: list[str], opened: bool) -> None:
    whole = parse(["".join(pieces)], opened=opened)
    assert parse(pieces, opened=opened) == whole
    assert parse(list("".join(pieces)), opened=opened) == whole
