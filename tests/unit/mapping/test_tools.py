"""Tools: offered to vLLM, and their calls put together from pieces."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat.mapping.tools import names, offered

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


# The offer


def test_a_tool_is_offered_as_openai_writes_it() -> None:
    assert offered([WEATHER]) == [WEATHER]


def test_what_is_none_is_left_out() -> None:
    tool = {"type": None, "function": {"name": "weather", "description": None, "parameters": {"type": "object"}}}
    assert offered([tool]) == [WEATHER]


@pytest.mark.parametrize("tool", [{}, {"function": None}, {"function": {}}, {"function": {"name": ""}}])
def test_a_tool_without_a_name_is_left_out(tool: dict[str, Any]) -> None:
    assert offered([tool, WEATHER]) == [WEATHER]


def test_names_of_the_offer() -> None:
    assert names(offered([WEATHER])) == {"weather"}
