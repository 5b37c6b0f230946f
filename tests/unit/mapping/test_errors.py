"""What vLLM says, as Ollama would have said it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError, ServerUnreachable
from ollama_compat.mapping.errors import (
    connections_exhausted,
    failure,
    model_not_found,
    model_required,
    nowhere,
    redirected,
    refusal,
    response_error,
    server_not_ready,
    server_timeout,
    unreachable,
    window_exceeded,
)

URL = "http://vllm:8001"


def read(status: int, document: Any) -> Any:
    return refusal(URL, status, json.dumps(document).encode())


# The shapes of an error


@pytest.mark.parametrize(
    ("document", "message", "is_vllm"),
    [
        ({"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}, "no", True),
        ({"error": {"message": None}}, "", True),
        ({"error": {}}, "", True),
        ({"error": "Unauthorized"}, "Unauthorized", False),
        ({"object": "error", "message": "no"}, "no", True),
        ({"message": "no"}, "no", True),
        ({"detail": "Not Found"}, "Not Found", False),
        ({"detail": [{"msg": "field required"}]}, '[{"msg": "field required"}]', False),
        ({"other": 1}, '{"other": 1}', False),
        ([1], "[1]", False),
        ("text", '"text"', False),
        (None, "null", False),
    ],
)
def test_every_shape_is_read(document: Any, message: str, is_vllm: bool) -> None:
    seen = read(400, document)
    assert (seen.message, seen.is_vllm) == (message, is_vllm)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", ""),
        (b"<h1>Bad\n\n Gateway</h1>", "<h1>Bad Gateway</h1>"),
        (b"\xff\x00", "\ufffd\ufffd"),
        (b"x" * 999, "x" * 300 + "…"),
    ],
    ids=["empty", "html", "bytes", "long"],
)
def test_what_is_no_json_is_quoted(body: bytes, message: str) -> None:
    assert refusal(URL, 502, body).message == message


@pytest.mark.parametrize(
    ("status", "document", "told"),
    [
        (404, {"detail": "Not Found"}, ["endpoint_missing"]),
        (405, {"detail": "Method Not Allowed"}, ["endpoint_missing"]),
        (404, {"error": {"message": "The model `x` does not exist."}}, ["model_missing"]),
        (400, {"error": {"message": "no", "param": "input_tokens"}}, ["too_long"]),
        (400, {"error": {"message": "no", "param": "input_text"}}, ["too_long"]),
        (400, {"error": {"message": "This model's maximum context length is 9 tokens."}}, ["too_long"]),
        (500, {"error": {"message": "no", "param": "input_tokens"}}, []),
        (400, {"error": {"message": "no", "param": "top_p"}}, []),
        (400, {"error": {"message": "no", "param": 5}}, []),
    ],
)
def test_what_a_refusal_means(status: int, document: Any, told: list[str]) -> None:
    seen = read(status, document)
    assert [name for name in ("endpoint_missing", "model_missing", "too_long") if getattr(seen, name)] == told


# The words


@pytest.mark.parametrize(
    ("status", "message", "text"),
    [
        (500, "boom", f"boom (status 500 from {URL})"),
        (502, "", f"empty reply (status 502 from {URL})"),
        (401, "Unauthorized", f"Unauthorized ({URL} wants another API key: check VLLM_API_KEY)"),
        (403, "", f"unauthorized ({URL} wants another API key: check VLLM_API_KEY)"),
        (
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            f"the vLLM server at {URL} was started without tool calling: "
            "start it with --enable-auto-tool-choice --tool-call-parser NAME",
        ),
        (
            400,
            "smol is not a multimodal model",
            '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal '
            'requests.","type":"invalid_request_error"}}',
        ),
        (400, "{braces} stay", f"{{braces}} stay (status 400 from {URL})"),
    ],
)
def test_a_refusal_in_the_words_that_help_most(status: int, message: str, text: str) -> None:
    error = read(status, {"error": {"message": message}}).error()
    assert (error.error, error.status_code) == (text, status)


@pytest.mark.parametrize("text", ["plain", '{"error": "inner"}', "[1]", '"text"', ""])
def test_an_errors_text_is_exactly_what_it_was_given(text: str) -> None:
    assert response_error(text, 400).error == text


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"message": "boom", "code": 503}}, 503),
        ({"error": {"message": "boom", "code": "x"}}, 500),
        ({"error": {"message": "boom"}}, 500),
        ({"error": "boom"}, 500),
    ],
)
def test_an_error_event_has_the_status_of_its_code(event: Any, status: int) -> None:
    error = failure(URL, json.dumps(event).encode())
    assert (error.error, error.status_code) == (f"boom (status {status} from {URL})", status)


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
def test_a_model_that_is_nowhere_in_the_words_of_the_endpoint(path: str, text: str) -> None:
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
def test_no_model_in_the_words_of_the_endpoint(path: str, status: int, text: str) -> None:
    error = model_required(path)
    assert (error.error, error.status_code) == (text, status)


def test_a_prompt_that_does_not_fit_is_told_with_its_numbers() -> None:
    error = window_exceeded(300, 256)
    inner = json.loads(error.error)["error"]
    assert error.status_code == 400
    assert inner["message"] == (
        "request (300 tokens) exceeds the available context size (256 tokens), try increasing it"
    )
    assert (inner["n_prompt_tokens"], inner["n_ctx"]) == (300, 256)


# No connection


@pytest.mark.parametrize(
    "caught_as", [ConnectionError, OSError, httpx.ConnectError, httpx.TransportError, httpx.HTTPError]
)
def test_no_connection_is_whatever_a_service_catches_today(caught_as: type[Exception]) -> None:
    assert isinstance(unreachable(URL, "smol", "refused"), caught_as)


def test_no_connection_names_the_server_the_model_the_reason_and_what_to_check() -> None:
    error = unreachable(URL, "smol", "Connection refused")
    assert str(error) == (
        f"Failed to connect to the vLLM server at {URL} for model 'smol': Connection refused. Please check that it is "
        f"running, that it has finished loading (GET {URL}/health), and that VLLM_URLS names it."
    )


def test_no_connection_for_a_list_names_no_model() -> None:
    assert f"{URL}: refused" in str(unreachable(URL, None, "refused"))


def test_no_server_in_reach_names_those_that_were_asked() -> None:
    said = str(nowhere({"http://a": "", "http://b": "did not answer"}, ("http://c",), "smol"))
    told = "Failed to connect to the vLLM servers http://a, http://b (it did not answer), wanted for model 'smol'."
    assert said.startswith(told)
    assert "None of the servers in reach has it (http://c)." in said


@pytest.mark.parametrize(
    "error",
    [
        unreachable(URL, "smol", "refused"),
        server_timeout(URL, 5.0, "smol"),
        connections_exhausted(URL, "Too many open files"),
        server_not_ready(URL, 503, "loading", 1.0),
        response_error("no", 400),
    ],
)
def test_an_error_goes_from_process_to_process(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))).startswith(str(error).partition(" (")[0])


def test_errors_are_the_official_ones() -> None:
    assert isinstance(ServerUnreachable("x"), ConnectionError)
    assert isinstance(response_error("x"), ResponseError)


def test_a_page_of_something_in_front_is_no_missing_endpoint() -> None:
    assert refusal(URL, 404, b'{"detail": "Not Found"}').endpoint_missing
    assert not refusal(URL, 404, b"<html>404 Not Found</html>").endpoint_missing


def test_where_a_redirect_leads_is_told_in_short_and_can_not_steer_a_terminal() -> None:
    said = str(redirected("http://a:8001/v1/models", "http://evil\x1b[31m/" + "k" * 50_000))
    assert "http://a:8001/v1/models redirects to http://evil" in said
    assert said.isprintable()
    assert len(said) < 500
