"""Ollama's options as vLLM's sampling parameters.

`OPTIONS` has a row for each option: its type as Ollama checks it, Ollama's default, and what becomes of it on vLLM.
docs/differences.md has the same rows and is tested against them. Types, defaults and words of the errors: Ollama
0.33, api/types.go (Options, FromMap, DefaultOptions). Limits of vLLM: 0.32, sampling_params.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ollama import ResponseError

from .errors import response_error


@dataclass(frozen=True, slots=True)
class Option:
    """One row: `kind` is the Go type; `field` the vLLM parameter, None where vLLM has none."""

    name: str
    kind: str
    default: Any = None
    field: str | None = None
    adapt: Callable[[Any], Any] | None = None
    """Another way to say the same thing in vLLM's words."""
    note: str = ""
    honoured: tuple[Any, ...] = ()
    """The values that have their effect, of an option that has none otherwise."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """What vLLM takes; a value outside is held to it, and the caller is told."""


def _not_negative(value: float) -> float:
    return max(value, 0)


def _top_p(value: float) -> float:
    return 1e-6 if value <= 0 else min(value, 1.0)


def _seed(value: int) -> int | None:
    return None if value == -1 else (value + 2**63) % 2**64 - 2**63  # as many bits as vLLM takes


_NO_EFFECT = "no effect: fixed when the vLLM server is started"

OPTIONS = (
    Option(
        "temperature", "float32", 0.8, "temperature", _not_negative, "held to 2 and below, vLLM's range", (), (0, 2)
    ),
    Option("top_p", "float32", 0.9, "top_p", _top_p, "0 and below keep one token, as in Ollama"),
    Option("top_k", "integer", 40, "top_k", _not_negative, "0 and below mean off"),
    Option("min_p", "float32", 0.0, "min_p", _not_negative, "held to 1 and below", range=(0, 1)),
    Option("seed", "integer", -1, "seed", _seed, "-1 is random; the same seed gives other words than on Ollama"),
    Option(
        "repeat_penalty",
        "float32",
        1.0,
        "repetition_penalty",
        None,
        "over the whole prompt and answer, Ollama: over the last `repeat_last_n` tokens; 0 is refused by both",
    ),
    Option(
        "presence_penalty",
        "float32",
        0.0,
        "presence_penalty",
        None,
        "held to -2 … 2; over the whole answer, Ollama: over the last `repeat_last_n` tokens",
        range=(-2, 2),
    ),
    Option(
        "frequency_penalty",
        "float32",
        0.0,
        "frequency_penalty",
        None,
        "held to -2 … 2; over the whole answer, Ollama: over the last `repeat_last_n` tokens",
        range=(-2, 2),
    ),
    Option(
        "num_predict", "integer", -1, "max_tokens", None, "0 and below: until the model stops or its window is full"
    ),
    Option("stop", "array", None, "stop", None, "of any number: past vLLM's four they are cut off here"),
    Option(
        "num_ctx", "integer", None, None, None, "honoured when the oldest messages are dropped; the window is vLLM's"
    ),
    Option(
        "repeat_last_n", "integer", 64, None, None, "0 turns the penalties off; others have no effect", honoured=(0,)
    ),
    Option("typical_p", "float32", 1.0, None, None, "no effect"),
    Option("num_keep", "integer", 4, None, None, "honoured when a prompt is cut to the window"),
    Option("num_batch", "integer", 512, None, None, _NO_EFFECT),
    Option("num_gpu", "integer", -1, None, None, _NO_EFFECT),
    Option("main_gpu", "integer", None, None, None, _NO_EFFECT),
    Option("num_thread", "integer", 0, None, None, _NO_EFFECT),
    Option("use_mmap", "boolean", None, None, None, _NO_EFFECT),
    Option("draft_num_predict", "integer", 4, None, None, _NO_EFFECT),
    # `ollama.Options` still has these; Ollama 0.33 itself knows them no more and ignores them.
    *(
        Option(name, "any", None, None, None, "no effect, nor on Ollama 0.33")
        for name in (
            *("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "low_vram"),
            *("f16_kv", "logits_all", "vocab_only", "use_mlock", "embedding_only"),
        )
    ),
)

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
HONOURED = frozenset(option.name for option in OPTIONS if option.field) | {"num_ctx", "num_keep"}

MAX_SERVER_STOPS = 4
"""How many stop strings vLLM takes in a request."""


def resolve(given: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call: the request's over the profile's, checked as Ollama checks them.

    Raises `ResponseError` 500 in Ollama's words for a value of the wrong type. Unknown names pass, as in Ollama.
    """
    options: dict[str, Any] = {}
    for name, value in (*parameters.items(), *(given or {}).items()):
        if value is None:
            continue
        option = BY_NAME.get(name)
        options[name] = value if option is None else _checked(option, value)
    return options


def without_effect(options: Mapping[str, Any]) -> list[str]:
    """The names in `options` that vLLM has no word for."""
    return [name for name, value in options.items() if name not in HONOURED and value not in _without_notice(name)]


def out_of_range(options: Mapping[str, Any]) -> list[str]:
    """The names in `options` whose values vLLM would refuse, so that the nearest one that it takes is used."""
    names = []
    for option in OPTIONS:
        value = _adapted(option, options.get(option.name))
        if isinstance(value, (int, float)) and not option.range[0] <= value <= option.range[1]:
            names.append(option.name)
    return names


def sampling(options: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    """The sampling parameters of a vLLM request, with Ollama's defaults for what is not said; `stop` is not among them.

    `window` is the model's `max_model_len` in tokens (None: not known): vLLM refuses a `max_tokens` above it.
    """
    values = {option.name: options.get(option.name, option.default) for option in OPTIONS if option.field}
    if values["repeat_penalty"] <= 0:
        raise _bad_repeat_penalty()
    if options.get("repeat_last_n") == 0:
        values.update(repeat_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    payload: dict[str, Any] = {}
    for option in OPTIONS:
        if option.field is None or option.name in ("num_predict", "stop"):
            continue
        value = _adapted(option, values[option.name])
        if value is not None:
            low, high = option.range
            payload[option.field] = min(max(value, low), high)
    limit = values["num_predict"]
    limits = [number for number in (limit, window) if number is not None and number > 0]
    if limits:
        payload["max_tokens"] = min(limits)
    return payload


def _adapted(option: Option, value: Any) -> Any:
    return value if option.adapt is None or value is None else option.adapt(value)


def _without_notice(name: str) -> tuple[Any, ...]:
    option = BY_NAME.get(name)
    return () if option is None else (option.default, *option.honoured)


def _checked(option: Option, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise response_error(f'option "{option.name}" must be a finite number', 500)
    match option.kind:
        case "integer" if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
        case "float32" if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "array" if isinstance(value, (list, tuple)):
            if not all(isinstance(item, str) for item in value):
                raise response_error(f'option "{option.name}" must be of an array of strings', 500)
            return list(value)
        case "any":
            return value
    raise response_error(f'option "{option.name}" must be of type {option.kind}', 500)


def _bad_repeat_penalty() -> ResponseError:
    return response_error(
        '{"error":{"code":400,"message":"Failed to initialize samplers: penalty_repeat must be finite and greater '
        'than 0","type":"invalid_request_error"}}',
        400,
    )
