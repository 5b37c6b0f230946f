"""What a request must be before vLLM is asked: Ollama's checks, in Ollama's words, and what chat and generate share.

Status and words of the refusals: Ollama 0.33, server/routes.go and api/types.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ollama import ResponseError

from ..call import Call
from ..exceptions import ModelGone
from ..mapping import model_families as thinking
from ..mapping import options
from ..mapping.errors import Refusal, response_error
from ..steps import JsonObject

if TYPE_CHECKING:
    from openai.types.shared_params import ResponseFormatJSONSchema

_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_ZERO_DURATION = re.compile(r"[+-]?(?:0+\.?0*[a-zµμ]*)+")


@dataclass(frozen=True)
class Checked:
    """A request that Ollama would take."""

    options: Mapping[str, Any]
    sampling: JsonObject
    """vLLM's sampling parameters."""
    response_format: ResponseFormatJSONSchema | None
    logprobs: bool
    top_logprobs: int
    stops: tuple[str, ...]

    num_ctx: int | None
    """An explicit window in tokens, where it is smaller than the server's."""

    @property
    def num_keep(self) -> int:
        """How many tokens stay at the beginning of a prompt that is cut."""
        return int(self.options.get("num_keep", options.BY_NAME["num_keep"].default))

    @property
    def payload(self) -> JsonObject:
        """What the request says of sampling and format."""
        if self.response_format is None:
            return self.sampling
        return {**self.sampling, "response_format": self.response_format}

    @property
    def server_takes_stops(self) -> bool:
        """vLLM takes up to four stop strings, none of them empty."""
        return len(self.stops) <= options.MAX_SERVER_STOPS and "" not in self.stops


def check(call: Call) -> Checked:
    """Refuse what Ollama refuses, and translate the rest."""
    body = call.body
    top = int(body.get("top_logprobs") or 0)
    if not 0 <= top <= 20:
        raise response_error("top_logprobs must be between 0 and 20", 400)
    thinking.check(body.get("think"))
    check_keep_alive(body.get("keep_alive"))
    resolved = options.resolve(body.get("options"), call.profile.parameters)
    note_without_effect(call, resolved)
    return Checked(
        options=resolved,
        sampling=options.sampling(resolved, call.window),
        response_format=response_format(body.get("format")),
        logprobs=bool(body.get("logprobs")),
        top_logprobs=top,
        stops=tuple(resolved.get("stop") or ()),
        num_ctx=_smaller(resolved.get("num_ctx"), call.window),
    )


def _smaller(num_ctx: int | None, window: int | None) -> int | None:
    if num_ctx is None or num_ctx <= 0 or (window is not None and num_ctx >= window):
        return None
    return num_ctx


def note_without_effect(call: Call, resolved: Mapping[str, Any]) -> None:
    """Name, once for each client, what the caller said and vLLM has no word for."""
    for name in options.without_effect(resolved):
        row = options.BY_NAME.get(name)
        note = row.note if row is not None else "unknown to Ollama too"
        call.memory.notice(
            "option unused", name, "option %(option)r is not used on vLLM: %(why)s", option=name, why=note
        )
    for name in options.out_of_range(resolved):
        low, high = options.BY_NAME[name].range
        call.memory.notice(
            "option out of range",
            name,
            "option %(option)r is held to %(low)g … %(high)g, which is what vLLM takes",
            option=name,
            low=low,
            high=high,
        )
    if call.body.get("keep_alive") is not None:
        call.memory.notice("option unused", "keep_alive", "keep_alive is not used on vLLM: a served model stays loaded")


def check_keep_alive(value: Any) -> None:
    """Refuse a `keep_alive` that is no Go duration."""
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        reason = "missing unit in" if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", value) else "invalid"
        raise response_error(f'time: {reason} duration "{value}"', 400)


def unloads(value: Any) -> bool:
    """Whether `keep_alive` asks for the model to be unloaded at once."""
    return bool(_ZERO_DURATION.fullmatch(value)) if isinstance(value, str) else value is not None and value == 0


def response_format(value: Any) -> ResponseFormatJSONSchema | None:
    """`format` as vLLM's `response_format`: "json" and the empty schema are any JSON object, as in llama.cpp."""
    if value is None or value == "":
        return None
    if value in ("json", {}):
        value = {"type": "object"}
    if not isinstance(value, dict):
        raise response_error(f'invalid format: "\\"{value}\\""; expected "json" or a valid JSON Schema object', 500)
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": value}}


def explain(call: Call, refused: Refusal, operation: str) -> Exception:
    """The exception for a refusal of vLLM's."""
    if refused.model_missing:
        return ModelGone(refused.message)
    if refused.endpoint_missing:
        return call.unsupported(operation)
    return refused.error()


def loaded(call: Call, fields: JsonObject, *, empty: bool) -> JsonObject:
    """The reply to a request without work: vLLM's models are always loaded."""
    reason = "unload" if empty and unloads(call.body.get("keep_alive")) else "load"
    return {"model": call.name, "created_at": call.clock.stamp(), **fields, "done": True, "done_reason": reason}


def refuse_field(field: str, why: str) -> ResponseError:
    """A field that can't be honoured and must not be ignored."""
    return response_error(f"{field} is not available on vLLM: {why}", 501)
