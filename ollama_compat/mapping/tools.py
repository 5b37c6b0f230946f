"""Translates tool definitions into OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.shared_params import FunctionDefinition


def offered(tools: Sequence[Mapping[str, Any]]) -> list[ChatCompletionFunctionToolParam]:
    """The OpenAI definitions of Ollama's `tools`, without those that have no function name: vLLM rejects these."""
    payload: list[ChatCompletionFunctionToolParam] = []
    for tool in tools:
        definition = {key: value for key, value in (tool.get("function") or {}).items() if value is not None}
        if definition.get("name"):
            function = cast("FunctionDefinition", definition)
            payload.append({"type": "function", "function": function})
    return payload


def names(tools: Sequence[ChatCompletionFunctionToolParam]) -> frozenset[str]:
    """The names of the functions in `tools`."""
    return frozenset(tool["function"]["name"] for tool in tools)
