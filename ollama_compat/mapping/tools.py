"""Translates tool definitions into OpenAI's, and streamed tool calls into Ollama's.

vLLM streams a tool call in deltas: first its name, then its arguments in fragments of JSON text. Ollama returns a
complete call with its arguments as an object. `ToolCalls` drops a call that is incomplete, that has arguments other
than a JSON object, or that calls an unknown tool, as Ollama does (0.33, tools/tools.go).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..steps import JsonObject
from .vllm_schema import ToolCallDelta

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
