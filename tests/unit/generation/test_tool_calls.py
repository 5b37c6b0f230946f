"""Tool calls that vLLM streams in pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.generation.tool_calls import ToolCallAssembler, parse_arguments
from ollama_compat.mapping.vllm_schema import FunctionDelta, ToolCallDelta


def piece(index: int = 0, name: str | None = None, arguments: str | None = None, **fields: Any) -> ToolCallDelta:
    return ToolCallDelta(index, function=FunctionDelta(name, arguments), **fields)


def calls(*deltas: ToolCallDelta, allowed: str = "weather time") -> list[tuple[int, str, Any]]:
    """Number, name and arguments of what comes out."""
    made = ToolCallAssembler(frozenset(allowed.split()))
    parts = made.feed(deltas) + made.finish()
    return [(part["function"]["index"], part["function"]["name"], part["function"]["arguments"]) for part in parts]


# The calls


def test_a_call_is_put_together_from_its_pieces() -> None:
    assert calls(piece(name="weather"), piece(arguments='{"ci'), piece(arguments='ty": "Paris"}')) == [
        (0, "weather", {"city": "Paris"})
    ]


def test_a_call_is_handed_on_when_the_next_one_begins() -> None:
    made = ToolCallAssembler(frozenset({"weather"}))
    assert made.feed([piece(0, "weather", "{}")]) == []
    assert [part["function"]["index"] for part in made.feed([piece(1, "weather")])] == [0]
    assert [part["function"]["index"] for part in made.finish()] == [1]


def test_several_calls_are_numbered_in_order() -> None:
    assert calls(piece(0, "weather", "{}"), piece(1, "time", "{}")) == [(0, "weather", {}), (1, "time", {})]


def test_calls_whose_pieces_are_mixed_are_told_by_their_number() -> None:
    made = ToolCallAssembler(frozenset({"weather", "time"}))
    mixed = [piece(0, "weather"), piece(0, None, '{"a": '), piece(0, None, "1}"), piece(1, "time", '{"b": 2}')]
    assert [part["function"]["arguments"] for part in made.feed(mixed) + made.finish()] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("arguments", ["", " ", "{}", None])
def test_no_arguments_are_an_empty_object(arguments: str | None) -> None:
    assert calls(piece(0, "weather", arguments)) == [(0, "weather", {})]


@pytest.mark.parametrize(
    ("delta", "why"),
    [
        (piece(0, "rm", "{}"), "a call of 'rm', which the request does not offer"),
        (piece(0, None, "{}"), "a call of '', which the request does not offer"),
        (piece(0, "weather", '{"city": "Par'), "a call of 'weather' whose arguments are no JSON object"),
        (piece(0, "weather", '"gaben"'), "a call of 'weather' whose arguments are no JSON object"),
        (piece(0, "weather", "[1]"), "a call of 'weather' whose arguments are no JSON object"),
    ],
)
def test_a_call_that_ollama_would_drop_is_dropped_with_its_reason(delta: ToolCallDelta, why: str) -> None:
    made = ToolCallAssembler(frozenset({"weather"}))
    assert made.feed([delta]) + made.finish() == []
    assert made.dropped == [why]


def test_a_dropped_call_takes_no_number() -> None:
    assert calls(piece(0, "rm", "{}"), piece(1, "weather", "{}")) == [(0, "weather", {})]


@pytest.mark.parametrize(
    ("id_", "id_of_the_part"), [("chatcmpl-tool-ad15832133e80cb1", "call_33e80cb1"), (None, "call_00000000")]
)
def test_an_id_has_ollamas_form(id_: str | None, id_of_the_part: str) -> None:
    made = ToolCallAssembler(frozenset({"weather"}))
    made.feed([piece(0, "weather", "{}", id=id_)])
    assert made.finish()[0]["id"] == id_of_the_part


@given(st.dictionaries(st.text(max_size=5), st.text() | st.integers(), max_size=3), st.lists(st.integers(0, 40)))
def test_arguments_split_in_any_way_are_the_same(arguments: dict[str, Any], places: list[int]) -> None:
    import json

    text = json.dumps(arguments)
    ends = sorted({0, len(text), *(place % len(text) for place in places)})
    pieces = [piece(arguments=text[start:end]) for start, end in pairwise(ends)]
    assert calls(piece(name="weather"), *pieces) == [(0, "weather", arguments)]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": 1}', {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('"gaben"', None),
        ("1", None),
        ("null", None),
        ("{", None),
        ("[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_arguments_are_an_object_or_nothing(text: str, arguments: Any) -> None:
    assert parse_arguments(text) == arguments
