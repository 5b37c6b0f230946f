"""Translation of options into sampling parameters."""

from __future__ import annotations

from typing import Any

import ollama
import pytest

from ollama_compat import ResponseError
from ollama_compat.mapping.options import BY_NAME, out_of_range, resolve, sampling, without_effect

DEFAULTS = {
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@pytest.mark.parametrize("name", ollama.Options.model_fields)
def test_table_has_every_option_of_the_official_client(name: str) -> None:
    assert name in BY_NAME


def test_sampling_uses_ollamas_defaults() -> None:
    assert sampling({}, None) == DEFAULTS


@pytest.mark.parametrize(
    ("option", "field", "sent"),
    [
        ({"temperature": 0.0}, "temperature", 0.0),
        ({"temperature": -1.0}, "temperature", 0.0),
        ({"temperature": 3.0}, "temperature", 2),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_p": 0.0}, "top_p", 1e-6),
        ({"top_p": -1.0}, "top_p", 1e-6),
        ({"top_p": 2.0}, "top_p", 1.0),
        ({"top_k": 5}, "top_k", 5),
        ({"top_k": 0}, "top_k", 0),
        ({"top_k": -1}, "top_k", 0),
        ({"min_p": 0.05}, "min_p", 0.05),
        ({"min_p": -0.5}, "min_p", 0),
        ({"min_p": 1.5}, "min_p", 1),
        ({"seed": 42}, "seed", 42),
        ({"seed": 0}, "seed", 0),
        ({"repeat_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"presence_penalty": 1.5}, "presence_penalty", 1.5),
        ({"presence_penalty": 3.0}, "presence_penalty", 2),
        ({"frequency_penalty": -3.0}, "frequency_penalty", -2),
        ({"num_predict": 10}, "max_tokens", 10),
    ],
)
def test_sampling_translates_an_option(option: dict[str, Any], field: str, sent: Any) -> None:
    assert sampling(option, None) == DEFAULTS | {field: sent}


def test_sampling_sends_no_seed_for_minus_one() -> None:
    assert "seed" not in sampling({"seed": -1}, None)


@pytest.mark.parametrize(
    ("num_predict", "window", "max_tokens"),
    [
        (10, 2048, 10),
        (99999, 2048, 2048),
        (99999, None, 99999),
        *((limit, 2048, 2048) for limit in (0, -1, -2)),
    ],
)
def test_max_tokens_is_the_minimum_of_num_predict_and_window(num_predict: int, window: int, max_tokens: int) -> None:
    assert sampling({"num_predict": num_predict}, window)["max_tokens"] == max_tokens


@pytest.mark.parametrize("num_predict", [0, -1, -2])
def test_sampling_sends_no_max_tokens_without_a_limit(num_predict: int) -> None:
    assert "max_tokens" not in sampling({"num_predict": num_predict}, None)


def test_repeat_last_n_of_zero_disables_the_penalties() -> None:
    options = {"repeat_last_n": 0, "repeat_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    assert sampling(options, None) == DEFAULTS


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_repeat_penalty_that_is_not_positive_raises_ollamas_error(value: float) -> None:
    with pytest.raises(ResponseError, match="penalty_repeat must be finite and greater than 0") as caught:
        sampling({"repeat_penalty": value}, None)
    assert caught.value.status_code == 400


def test_sampling_excludes_stop_strings() -> None:
    assert sampling({"stop": ["a"]}, None) == DEFAULTS


# Types and precedence


def test_resolve_prefers_the_request_to_the_profile() -> None:
    assert resolve({"top_k": 7}, {"top_k": 5, "seed": 1}) == {"top_k": 7, "seed": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"top_k": 5.0}, {"top_k": 5}),
        ({"top_k": 5.9}, {"top_k": 5}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        ({"stop": []}, {"stop": []}),
        ({"use_mmap": True}, {"use_mmap": True}),
        ({"temperature": None}, {}),
        ({"mirostat": 2}, {"mirostat": 2}),
        ({"no_such_option": object}, {"no_such_option": object}),
        (None, {}),
    ],
)
def test_resolve_converts_values_of_a_valid_type(given: Any, expected: dict[str, Any]) -> None:
    assert resolve(given, {}) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"top_k": "5"}, 'option "top_k" must be of type integer'),
        ({"seed": True}, 'option "seed" must be of type integer'),
        ({"stop": "a"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
    ],
)
def test_resolve_raises_ollamas_error_for_a_wrong_type(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        resolve(given, {})
    assert (caught.value.error, caught.value.status_code) == (text, 500)


# Notices


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_gpu": 1}, ["num_gpu"]),
        ({"no_such_option": 1}, ["no_such_option"]),
        ({"num_thread": 0}, []),
        ({"repeat_last_n": 32}, ["repeat_last_n"]),
        ({"repeat_last_n": 64}, []),
        ({"temperature": 0.1, "num_ctx": 256, "num_keep": 5, "stop": ["a"]}, []),
    ],
)
def test_without_effect_names_options_that_have_none(options: dict[str, Any], expected: list[str]) -> None:
    assert without_effect(options) == expected


def test_without_effect_skips_values_that_have_an_effect() -> None:
    assert without_effect({"repeat_last_n": 0}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 3.0}, ["temperature"]),
        ({"temperature": -1.0}, []),
        ({"presence_penalty": -2.5}, ["presence_penalty"]),
        ({"min_p": 1.5}, ["min_p"]),
        ({"temperature": 2.0, "min_p": 1.0}, []),
        ({}, []),
    ],
)
def test_out_of_range_names_options_outside_vllms_range(options: dict[str, Any], expected: list[str]) -> None:
    assert out_of_range(options) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["temperature", "num_predict"])
def test_resolve_raises_an_error_for_a_number_that_is_not_finite(name: str, value: float) -> None:
    with pytest.raises(ResponseError, match=f'option "{name}" must be a finite number'):
        resolve({name: value}, {})
