"""Ollama's checks of request fields, with Ollama's status and text (0.33, server/routes.go and api/types.go)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .model_families import LEVELS
from .ollama_errors import response_error

if TYPE_CHECKING:
    from openai.types.shared_params import ResponseFormatJSONSchema

MAX_TOP_LOGPROBS = 20

_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_ZERO_DURATION = re.compile(r"[+-]?(?:0+\.?0*[a-zµμ]*)+")


def check_top_logprobs(value: Any) -> int:
    """The number of alternatives for each token. Raises Ollama's 400 outside 0 to 20."""
    number = int(value or 0)
    if not 0 <= number <= MAX_TOP_LOGPROBS:
        raise response_error(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", 400)
    return number


def check_think(think: Any) -> None:
    """Raise Ollama's 400 for a `think` that is neither a boolean nor a level."""
    if think is None or isinstance(think, bool) or think in LEVELS:
        return
    allowed = ", ".join(f'"{level}"' for level in LEVELS)
    if isinstance(think, str):
        raise response_error(f'invalid think value: "{think}" (must be {allowed}, true, or false)', 400)
    raise response_error(f"think must be a boolean or string ({allowed}, true, or false)", 400)


def check_keep_alive(value: Any) -> None:
    """Raise Ollama's 400 for a `keep_alive` that is no Go duration."""
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        reason = "missing unit in" if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", value) else "invalid"
        raise response_error(f'time: {reason} duration "{value}"', 400)


def unloads(keep_alive: Any) -> bool:
    """Whether a `keep_alive` unloads the model at once."""
    if isinstance(keep_alive, str):
        return bool(_ZERO_DURATION.fullmatch(keep_alive))
    return keep_alive is not None and keep_alive == 0


def response_format(value: Any) -> ResponseFormatJSONSchema | None:
    """`format` as vLLM's `response_format`: "json" and the empty schema mean any JSON object, as in llama.cpp."""
    if value is None or value == "":
        return None
    if value in ("json", {}):
        value = {"type": "object"}
    if not isinstance(value, dict):
        raise response_error(f'invalid format: "\\"{value}\\""; expected "json" or a valid JSON Schema object', 500)
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": value}}


def context_limit(num_ctx: int | None, window: int | None) -> int | None:
    """`num_ctx` (tokens) where it is smaller than the window of the server; None: the window is the only limit."""
    if not num_ctx or num_ctx < 0 or (window is not None and num_ctx >= window):
        return None
    return num_ctx
