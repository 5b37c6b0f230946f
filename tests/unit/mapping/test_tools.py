"""Tool definitions for vLLM, and the assembly of streamed tool calls."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat.mapping.tools import names, offered

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_offered_returns_openai_definitions() -> None:
    assert offered([WEATHER]) == [WEATHER]


def test_offered_drops_fields_that_are_none() -> None:
    tool = {"type": None, "function": {"name": "weather", "description": None, "parameters": {"type": "object"}}}
    assert offered([tool]) == [WEATHER]


@pytest.mark.parametrize("tool", [{}, {"function": None}, {"function": {}}, {"function": {"name": ""}}])
def test_offered_drops_tools_without_a_name(tool: dict[str, Any]) -> None:
    assert offered([tool, WEATHER]) == [WEATHER]


def test_names_returns_the_function_names() -> None:
    assert names(offered([WEATHER])) == {"weather"}
