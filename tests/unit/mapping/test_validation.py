"""Ollama's checks of request fields."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.mapping.validation import check_keep_alive, check_think, response_format, unloads

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

# think


@pytest.mark.parametrize("think", [None, True, False, "low", "medium", "high", "max"])
def test_check_think_accepts_values_of_ollama(think: Any) -> None:
    check_think(think)


@pytest.mark.parametrize(
    ("think", "text"),
    [
        ("maybe", 'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)'),
        ("", 'invalid think value: "" (must be "high", "medium", "low", "max", true, or false)'),
        (1.5, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
        ([], 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
    ],
)
def test_check_think_raises_error_of_ollama(think: Any, text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        check_think(think)
    assert (caught.value.error, caught.value.status_code) == (text, 400)


# keep_alive


@pytest.mark.parametrize(
    "value", [None, 0, -1, 300, 1.5, "5m", "1h30m", "0", "-1s", "1.5h", "100ms", ".5s", "300us", "1µs"]
)
def test_check_keep_alive_accepts_values_of_ollama(value: Any) -> None:
    check_keep_alive(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("soon", 'time: invalid duration "soon"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("-1.5", 'time: missing unit in duration "-1.5"'),
        ("5 m", 'time: invalid duration "5 m"'),
        ("m5", 'time: invalid duration "m5"'),
    ],
)
def test_check_keep_alive_refuses_invalid_go_duration(value: str, text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        check_keep_alive(value)
    assert (caught.value.error, caught.value.status_code) == (text, 400)


@pytest.mark.parametrize("value", [0, 0.0, "0", "0s", "0m0s", "-0s"])
def test_zero_keep_alive_unloads(value: Any) -> None:
    assert unloads(value)


@pytest.mark.parametrize("value", [None, 1, -1, "5m", "0m1s", "0.5s", "10s"])
def test_other_keep_alive_does_not_unload(value: Any) -> None:
    assert not unloads(value)


# format


@pytest.mark.parametrize("value", [None, ""])
def test_response_format_is_none_without_format(value: Any) -> None:
    assert response_format(value) is None


@pytest.mark.parametrize(
    ("value", "schema"), [("json", {"type": "object"}), ({}, {"type": "object"}), (SCHEMA, SCHEMA)]
)
def test_response_format_is_json_schema(value: Any, schema: Any) -> None:
    assert response_format(value) == {"type": "json_schema", "json_schema": {"name": "format", "schema": schema}}
