"""Ollama's own errors: their texts and status codes."""

from __future__ import annotations

import json

import pytest

from ollama_compat.mapping.ollama_errors import model_not_found, model_required, response_error, window_exceeded


@pytest.mark.parametrize("text", ["plain", '{"error": "inner"}', "[1]", '"text"', ""])
def test_response_error_keeps_its_text_even_if_it_is_json(text: str) -> None:
    assert response_error(text, 400).error == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/chat", "model 'nope' not found"),
        ("/api/generate", "model 'nope' not found"),
        ("/api/embed", 'model "nope" not found, try pulling it first'),
        ("/api/show", "model 'nope:latest' not found"),
        ("/api/copy", 'model "nope" not found'),
    ],
)
def test_model_not_found_has_the_text_of_the_endpoint(path: str, text: str) -> None:
    error = model_not_found(path, "nope")
    assert (error.error, error.status_code) == (text, 404)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/generate", 404, "model '' not found"),
        ("/api/embed", 404, "model '' not found"),
        ("/api/chat", 400, "model is required"),
        ("/api/show", 400, "model is required"),
        ("/api/embeddings", 400, "model is required"),
    ],
)
def test_model_required_has_the_text_and_status_of_the_endpoint(path: str, status: int, text: str) -> None:
    error = model_required(path)
    assert (error.error, error.status_code) == (text, status)


def test_window_exceeded_names_the_prompt_size_and_the_window() -> None:
    error = window_exceeded(300, 256)
    inner = json.loads(error.error)["error"]
    assert error.status_code == 400
    assert inner["message"] == (
        "request (300 tokens) exceeds the available context size (256 tokens), try increasing it"
    )
    assert (inner["n_prompt_tokens"], inner["n_ctx"]) == (300, 256)
