"""Translates Ollama's options into vLLM's sampling parameters.

`OPTIONS` has a row for each option: its type as Ollama checks it, Ollama's default, and the effect on vLLM.
docs/differences.md is generated from it. Sources: Ollama 0.33, api/types.go (Options, FromMap, DefaultOptions) for
types, defaults and error texts; vLLM 0.32, sampling_params.py, for limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ollama import ResponseError

from .ollama_errors import response_error


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table."""

    name: str
    kind: str
    """The type, as Ollama's error texts name it."""
    default: Any = None
    field: str | None = None
    """The sampling parameter of vLLM. None: vLLM has none."""
    adapt: Callable[[Any], Any] | None = None
    """Converts the value to the vLLM value that has the same effect."""
    note: str = ""
    """The difference from Ollama, for the documentation."""
    honoured: tuple[Any, ...] = ()
    """The values that have an effect, if the option otherwise has none."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """The values that vLLM accepts. The nearest limit replaces a value outside this range."""


def _not_negative(value: float) -> float:
    return max(value, 0)


def _top_p(value: float) -> float:
    return 1e-6 if value <= 0 else min(value, 1.0)


def _seed(value: int) -> int | None:
    return None if value == -1 else (value + 2**63) % 2**64 - 2**63  # vLLM accepts 64-bit signed integers


_FIXED = "no effect: fixed when the vLLM server starts"
_PENALTY = "limited to -2 … 2; covers the whole answer; in Ollama, the last `repeat_last_n` tokens"

OPTIONS = (
    Option("temperature", "float32", 0.8, "temperature", _not_negative, "limited to 2, vLLM's maximum", range=(0, 2)),
    Option("top_p", "float32", 0.9, "top_p", _top_p, "0 and below keep one token, as in Ollama"),
    Option("top_k", "integer", 40, "top_k", _not_negative, "0 and below disable it"),
    Option("min_p", "float32", 0.0, "min_p", _not_negative, "limited to 1", range=(0, 1)),
    Option("seed", "integer", -1, "seed", _seed, "-1 is random; a seed gives a different text than in Ollama"),
    Option(
        "repeat_penalty",
        "float32",
        1.0,
        "repetition_penalty",
        note="covers the whole prompt and answer; in Ollama, the last `repeat_last_n` tokens; both reject 0",
    ),
    Option("presence_penalty", "float32", 0.0, "presence_penalty", note=_PENALTY, range=(-2, 2)),
    Option("frequency_penalty", "float32", 0.0, "frequency_penalty", note=_PENALTY, range=(-2, 2)),
    Option("num_predict", "integer", -1, "max_tokens", note="0 and below: until the model stops or its window is full"),
    Option("stop", "array", None, "stop", note="any number: with more than vLLM's four, the client applies them"),
    Option("num_ctx", "integer", note="used to drop the oldest messages; the window itself is vLLM's"),
    Option("repeat_last_n", "integer", 64, note="0 disables the penalties; other values have no effect", honoured=(0,)),
    Option("typical_p", "float32", 1.0, note="no effect"),
    Option("num_keep", "integer", 4, note="used when a prompt is truncated to the window"),
    Option("num_batch", "integer", 512, note=_FIXED),
    Option("num_gpu", "integer", -1, note=_FIXED),
    Option("main_gpu", "integer", note=_FIXED),
    Option("num_thread", "integer", 0, note=_FIXED),
    Option("use_mmap", "boolean", note=_FIXED),
    Option("draft_num_predict", "integer", 4, note=_FIXED),
    # `ollama.Options` still has these. Ollama 0.33 itself ignores them.
    *(
        Option(name, "any", note="no effect, as in Ollama 0.33")
        for name in (
            *("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "low_vram"),
            *("f16_kv", "logits_all", "vocab_only", "use_mlock", "embedding_only"),
        )
    ),
)

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
HONOURED = frozenset(option.name for option in OPTIONS if option.field) | {"num_ctx", "num_keep"}

MAX_SERVER_STOPS = 4
"""The number of stop strings that vLLM accepts in a request."""


def resolve(given: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call: the profile's `parameters`, overridden by the request's `given` options.

    The values are checked and converted as Ollama does it. Unknown names remain, as in Ollama. Raises `ResponseError`
    500 with Ollama's text for a value of the wrong type.
    """
    options: dict[str, Any] = {}
    for name, value in (*parameters.items(), *(given or {}).items()):
        if value is None:
            continue
        option = BY_NAME.get(name)
        options[name] = value if option is None else _checked(option, value)
    return options


def without_effect(options: Mapping[str, Any]) -> list[str]:
    """The names of the `options` that have no effect on vLLM and differ from Ollama's default."""
    return [name for name, value in options.items() if name not in HONOURED and value not in _unremarkable(name)]


def out_of_range(options: Mapping[str, Any]) -> list[str]:
    """The names of the `options` whose values are outside vLLM's range."""
    names = []
    for option in OPTIONS:
        value = _adapted(option, options.get(option.name))
        if isinstance(value, (int, float)) and not option.range[0] <= value <= option.range[1]:
            names.append(option.name)
    return names


def sampling(options: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    """The sampling parameters of a vLLM request, except `stop`. Ollama's defaults apply to options that are not given.

    `window` is the model's `max_model_len` in tokens (None: unknown). vLLM rejects a larger `max_tokens`. Raises
    `ResponseError` 400 with Ollama's text if `repeat_penalty` is not positive.
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
    limits = [number for number in (values["num_predict"], window) if number is not None and number > 0]
    if limits:
        payload["max_tokens"] = min(limits)
    return payload


@lru_cache(maxsize=64)
def default_sampling(window: int | None) -> Mapping[str, Any]:
    """The sampling parameters of a call without options; see `sampling`. Shared by calls: do not change them."""
    return sampling({}, window)


def _adapted(option: Option, value: Any) -> Any:
    return value if option.adapt is None or value is None else option.adapt(value)


def _unremarkable(name: str) -> tuple[Any, ...]:
    """The values of an option without effect that need no notice: Ollama's default, and those that have an effect."""
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
