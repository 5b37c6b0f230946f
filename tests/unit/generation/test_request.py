"""Checks of a request, which raise Ollama's own error messages, and the values that they read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.call import ClientContext
from ollama_compat.generation.request import check
from ollama_compat.mapping.vllm_schema import ModelCard
from tests.play import FakeClock, call


def refused(body: dict[str, Any]) -> tuple[str, int]:
    """The message and the status code of the error."""
    with pytest.raises(ResponseError) as caught:
        check(call("/api/chat", body))
    return caught.value.error, caught.value.status_code


@pytest.mark.parametrize(
    ("body", "text", "status"),
    [
        ({"top_logprobs": 25}, "top_logprobs must be between 0 and 20", 400),
        ({"top_logprobs": -1}, "top_logprobs must be between 0 and 20", 400),
        ({"keep_alive": "soon"}, 'time: invalid duration "soon"', 400),
        ({"format": "yaml"}, 'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object', 500),
        ({"options": {"temperature": "hot"}}, 'option "temperature" must be of type float32', 500),
        (
            {"think": "maybe"},
            'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)',
            400,
        ),
    ],
)
def test_check_raises_error_of_ollama(body: dict[str, Any], text: str, status: int) -> None:
    assert refused(body) == (text, status)


@pytest.mark.parametrize("top", [0, 1, 20, None])
def test_check_accepts_valid_top_logprobs(top: int | None) -> None:
    assert check(call("/api/chat", {"logprobs": True, "top_logprobs": top})).top_logprobs == (top or 0)


# num_ctx and stop strings


@pytest.mark.parametrize(
    ("num_ctx", "window", "expected"),
    [(256, 2048, 256), (2048, 2048, None), (4096, 2048, None), (0, 2048, None), (-1, 2048, None), (256, None, 256)],
)
def test_num_ctx_applies_when_smaller_than_window_of_server(
    num_ctx: int, window: int | None, expected: int | None
) -> None:
    body = {"options": {"num_ctx": num_ctx}}
    assert check(call("/api/chat", body, card=ModelCard("smol", max_model_len=window))).num_ctx == expected


@pytest.mark.parametrize(
    ("stops", "by_server"), [([], True), (["a"] * 4, True), (["a"] * 5, False), (["a", ""], False), (None, True)]
)
def test_server_applies_at_most_four_stop_strings_and_no_empty_one(stops: list[str] | None, by_server: bool) -> None:
    request = check(call("/api/chat", {"options": {"stop": stops}}))
    assert request.client_stops() == (() if by_server else tuple(stops or ()))
    assert request.fields(request.client_stops()).get("stop") == (stops or None if by_server else None)


def test_client_applies_stop_strings_when_the_reply_may_hold_thinking() -> None:
    request = check(call("/api/chat", {"options": {"stop": ["a"]}}))
    assert request.client_stops(thinking=True) == ("a",)


# Notices


@pytest.mark.parametrize(
    ("body", "notice"),
    [
        ({"options": {"num_gpu": 1}}, "option 'num_gpu' is not used on vLLM: no effect: fixed when"),
        ({"options": {"typo": 1}}, "option 'typo' is not used on vLLM: unknown to Ollama too"),
        ({"options": {"temperature": 5.0}}, "option 'temperature' is limited to 0 … 2, the range that vLLM accepts"),
        ({"keep_alive": "5m"}, "keep_alive is not used on vLLM: a served model stays loaded"),
    ],
)
def test_ignored_field_is_logged_once_for_each_client(
    body: dict[str, Any], notice: str, caplog: pytest.LogCaptureFixture
) -> None:
    context = ClientContext(FakeClock())
    with caplog.at_level(logging.WARNING, "ollama_compat"):
        for _ in range(3):
            check(call("/api/chat", body, context=context))
    assert [record.getMessage()[: len(notice)] for record in caplog.records] == [notice]


def test_supported_options_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    check(call("/api/chat", {"options": {"temperature": 0.1, "top_k": 5, "num_predict": 9, "seed": 1, "stop": ["a"]}}))
    assert caplog.records == []
