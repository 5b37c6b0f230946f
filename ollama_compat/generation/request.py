"""A request to generate text: Ollama's checks, and the options that all prompts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ollama import ResponseError

from ..call import Call
from ..exceptions import ModelGone
from ..mapping import options
from ..mapping.model_families import tool_parser_of
from ..mapping.ollama_errors import response_error
from ..mapping.refusals import Refusal
from ..mapping.validation import (
    check_keep_alive,
    check_think,
    check_top_logprobs,
    context_limit,
    response_format,
    unloads,
)
from ..steps import JsonObject

if TYPE_CHECKING:
    from openai.types.shared_params import ResponseFormatJSONSchema


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The checked fields of a request."""

    options: Mapping[str, Any]
    sampling: Mapping[str, Any]
    """vLLM's sampling parameters."""
    response_format: ResponseFormatJSONSchema | None
    logprobs: bool
    top_logprobs: int
    stops: tuple[str, ...]
    num_ctx: int | None
    """An explicit window (tokens) that is smaller than the server's."""

    @property
    def num_keep(self) -> int:
        """How many tokens stay at the beginning of a prompt that is cut."""
        return int(self.options.get("num_keep", options.BY_NAME["num_keep"].default))

    def client_stops(self, *, thinking: bool = False) -> tuple[str, ...]:
        """The stop strings that the client applies; (): the server applies them.

        vLLM accepts up to four stop strings, none of them empty. With `thinking`, the client applies them: they cut
        only the answer, and vLLM would cut the thinking too.
        """
        if thinking or len(self.stops) > options.MAX_SERVER_STOPS or "" in self.stops:
            return self.stops
        return ()

    def fields(self, client_stops: tuple[str, ...]) -> JsonObject:
        """The fields of a request for sampling, stop strings and format."""
        fields = dict(self.sampling)
        if self.response_format is not None:
            fields["response_format"] = self.response_format
        if self.stops and not client_stops:
            fields["stop"] = list(self.stops)
        return fields

    def room_for_prompt(self, window: int) -> int:
        """The longest prompt (tokens) that leaves room for an answer: vLLM cannot shift its window as Ollama does."""
        requested = self.options.get("num_predict", -1)
        reserve = requested if requested > 0 else window // 4
        return window - max(1, min(reserve, window // 4))

    def with_stops(self, stops: tuple[str, ...]) -> GenerationRequest:
        """The same request with further stop strings."""
        return replace(self, stops=(*self.stops, *stops))


def check(call: Call) -> GenerationRequest:
    """Check a request as Ollama does. Raises Ollama's errors."""
    body = call.body
    top_logprobs = check_top_logprobs(body["top_logprobs"]) if body.get("top_logprobs") else 0
    if body.get("think") is not None:
        check_think(body["think"])
    if body.get("keep_alive") is not None:
        check_keep_alive(body["keep_alive"])
    given, parameters = body.get("options"), call.profile.parameters
    resolved = options.resolve(given, parameters) if given or parameters else {}
    if resolved or body.get("keep_alive") is not None:
        notice_unused(call, resolved)
    return GenerationRequest(
        options=resolved,
        sampling=options.sampling(resolved, call.window) if resolved else options.default_sampling(call.window),
        response_format=response_format(body["format"]) if body.get("format") is not None else None,
        logprobs=bool(body.get("logprobs")),
        top_logprobs=top_logprobs,
        stops=tuple(resolved.get("stop") or ()),
        num_ctx=context_limit(resolved["num_ctx"], call.window) if "num_ctx" in resolved else None,
    )


def notice_unused(call: Call, resolved: Mapping[str, Any]) -> None:
    """Log, once per client, each option that vLLM does not support."""
    for name in options.without_effect(resolved) if resolved else ():
        row = options.BY_NAME.get(name)
        note = row.note if row is not None else "unknown to Ollama too"
        call.notice("option unused", name, "option %(option)r is not used on vLLM: %(why)s", option=name, why=note)
    for name in options.out_of_range(resolved) if resolved else ():
        low, high = options.BY_NAME[name].range
        call.notice(
            "option out of range",
            name,
            "option %(option)r is limited to %(low)g … %(high)g, the range that vLLM accepts",
            option=name,
            low=low,
            high=high,
        )
    if call.body.get("keep_alive") is not None:
        call.notice("option unused", "keep_alive", "keep_alive is not used on vLLM: a served model stays loaded")


def explain_refusal(call: Call, refused: Refusal, operation: str | None = None) -> Exception:
    """The exception for a refusal of vLLM. `operation`: Ollama's name of it; by default the endpoint's."""
    if refused.model_missing:
        return ModelGone(refused.message)
    if refused.endpoint_missing:
        return call.unsupported(operation or call.path.removeprefix("/api/"))
    return refused.error(tool_parser=tool_parser_of(call.served, call.target.card.root))


def loaded(call: Call, fields: JsonObject) -> JsonObject:
    """The reply to a request without a prompt: vLLM's models are always loaded."""
    reason = "unload" if unloads(call.body.get("keep_alive")) else "load"
    return {
        "model": call.name,
        "created_at": call.context.clock.stamp(),
        **fields,
        "done": True,
        "done_reason": reason,
    }


def unavailable(field: str, cause: str) -> ResponseError:
    """The error for a field that vLLM cannot honour and that must not be ignored."""
    return response_error(f"{field} is not available on vLLM: {cause}", 501)
