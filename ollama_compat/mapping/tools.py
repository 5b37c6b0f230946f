"""Tools: the offer on the way there, the calls on the way back.

vLLM streams a call as its name and then its arguments in pieces of JSON text; Ollama hands a call over whole, with its
arguments as an object. A call that is cut off, whose arguments are no object, or of a tool that was not offered is
dropped, as Ollama drops it (0.33, tools/tools.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.shared_params import FunctionDefinition


def offered(tools: Sequence[Mapping[str, Any]]) -> list[ChatCompletionFunctionToolParam]:
    """Ollama's tools as OpenAI's: those without a function name, which vLLM refuses, are left out."""
    payload: list[ChatCompletionFunctionToolParam] = []
    for tool in tools:
        given = {key: value for key, value in (tool.get("function") or {}).items() if value is not None}
        if given.get("name"):
            function = cast("FunctionDefinition", given)
            payload.append({"type": "function", "function": function})
    return payload


def names(tools: Sequence[ChatCompletionFunctionToolParam]) -> frozenset[str]:
    """The names of the tools that were offered."""
    return frozenset(tool["function"]["name"] for tool in tools)
