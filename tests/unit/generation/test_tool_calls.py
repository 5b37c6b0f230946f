"""Assembly of streamed tool calls."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.generation.tool_calls import ToolCallAssembler, parse_arguments
from ollama_compat.mapping.vllm_schema import FunctionDelta, ToolCallDelta


def delta(index: int = 0, name: str | None = None, arguments: str | None = None, **fields: Any) -> ToolCallDelta:
    return ToolCallDelta(index, function=FunctionDelta(name, arguments), **fields)


def calls(*deltas: ToolCallDelta, allowed: str = "weather time") -> list[tuple[int, str, Any]]:
    """Index, name and arguments of each assembled call."""
    assembler = ToolCallAssembler(frozenset(allowed.split()))
    parts = assembler.feed(deltas) + assembler.finish()
    return [(part["function"]["index"], part["function"]["name"], part["function"]["arguments"]) for part in parts]


def test_call_is_assembled_from_deltas() -> None:
    assert calls(delta(name="weather"), delta(arguments='{"ci'), delta(arguments='ty": "Paris"}')) == [
        (0, "weather", {"city": "Paris"})
    ]


def test_call_is_returned_when_the_next_call_begins() -> None:
    assembler = ToolCallAssembler(frozenset({"weather"}))
    assert assembler.feed([delta(0, "weather", "{}")]) == []
    assert [part["function"]["index"] for part in assembler.feed([delta(1, "weather")])] == [0]
    assert [part["function"]["index"] for part in assembler.finish()] == [1]


def test_calls_are_numbered_in_order() -> None:
    assert calls(delta(0, "weather", "{}"), delta(1, "time", "{}")) == [(0, "weather", {}), (1, "time", {})]


def test_deltas_are_assigned_to_calls_by_index() -> None:
    assembler = ToolCallAssembler(frozenset({"weather", "time"}))
    mixed = [delta(0, "weather"), delta(0, None, '{"a": '), delta(0, None, "1}"), delta(1, "time", '{"b": 2}')]
    assert [part["function"]["arguments"] for part in assembler.feed(mixed) + assembler.finish()] == [
        {"a": 1},
        {"b": 2},
    ]


@pytest.mark.parametrize("arguments", ["", " ", "{}", None])
def test_missing_arguments_become_an_empty_object(arguments: str | None) -> None:
    assert calls(delta(0, "weather", arguments)) == [(0, "weather", {})]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (delta(0, "rm", "{}"), "a call of 'rm', which the request does not offer"),
        (delta(0, None, "{}"), "a call of '', which the request does not offer"),
        (delta(0, "weather", '{"city": "Par'), "a call of 'weather' whose arguments are no JSON object"),
        (delta(0, "weather", '"gaben"'), "a call of 'weather' whose arguments are no JSON object"),
        (delta(0, "weather", "[1]"), "a call of 'weather' whose arguments are no JSON object"),
    ],
)
def test_call_that_ollama_drops_is_dropped_with_a_reason(part: ToolCallDelta, why: str) -> None:
    assembler = ToolCallAssembler(frozenset({"weather"}))
    assert assembler.feed([part]) + assembler.finish() == []
    assert assembler.dropped == [why]


def test_dropped_call_uses_no_index() -> None:
    assert calls(delta(0, "rm", "{}"), delta(1, "weather", "{}")) == [(0, "weather", {})]


@pytest.mark.parametrize(
    ("id_", "expected"), [("chatcmpl-tool-ad15832133e80cb1", "call_33e80cb1"), (None, "call_00000000")]
)
def test_call_id_has_ollamas_form(id_: str | None, expected: str) -> None:
    assembler = ToolCallAssembler(frozenset({"weather"}))
    assembler.feed([delta(0, "weather", "{}", id=id_)])
    assert assembler.finish()[0]["id"] == expected


@given(st.dictionaries(st.text(max_size=5), st.text() | st.integers(), max_size=3), st.lists(st.integers(0, 40)))
def test_arguments_do_not_depend_on_their_fragments(arguments: dict[str, Any], cuts: list[int]) -> None:
    text = json.dumps(arguments)
    ends = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    fragments = [delta(arguments=text[start:end]) for start, end in pairwise(ends)]
    assert calls(delta(name="weather"), *fragments) == [(0, "weather", arguments)]


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
def test_parse_arguments_returns_an_object_or_none(text: str, arguments: Any) -> None:
    assert parse_arguments(text) == arguments
