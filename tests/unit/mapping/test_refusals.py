"""Error replies of servers, and the exceptions that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_compat.mapping.refusals import Refusal, refusal, stream_error

URL = "http://vllm:8001"


def parsed(status: int, document: Any) -> Refusal:
    return refusal(URL, status, json.dumps(document).encode())


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
def test_refusal_is_parsed_from_every_shape_of_error(document: Any, message: str, is_vllm: bool) -> None:
    result = parsed(400, document)
    assert (result.message, result.is_vllm) == (message, is_vllm)


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
def test_refusal_quotes_a_body_that_is_not_json(body: bytes, message: str) -> None:
    assert refusal(URL, 502, body).message == message


@pytest.mark.parametrize(
    ("status", "document", "properties"),
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
def test_refusal_is_classified_by_status_and_content(status: int, document: Any, properties: list[str]) -> None:
    result = parsed(status, document)
    assert [name for name in ("endpoint_missing", "model_missing", "too_long") if getattr(result, name)] == properties


def test_html_page_with_status_404_is_not_a_missing_endpoint() -> None:
    assert refusal(URL, 404, b'{"detail": "Not Found"}').endpoint_missing
    assert not refusal(URL, 404, b"<html>404 Not Found</html>").endpoint_missing


@pytest.mark.parametrize(
    ("status", "message", "text"),
    [
        (500, "boom", f"boom (status 500 from {URL})"),
        (502, "", f"empty reply (status 502 from {URL})"),
        (401, "Unauthorized", f"Unauthorized ({URL} requires a valid API key: check VLLM_API_KEY)"),
        (403, "", f"unauthorized ({URL} requires a valid API key: check VLLM_API_KEY)"),
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
def test_refusal_becomes_an_error_with_ollamas_text_or_advice(status: int, message: str, text: str) -> None:
    error = parsed(status, {"error": {"message": message}}).error()
    assert (error.error, error.status_code) == (text, status)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"message": "boom", "code": 503}}, 503),
        ({"error": {"message": "boom", "code": "x"}}, 500),
        ({"error": {"message": "boom"}}, 500),
        ({"error": "boom"}, 500),
    ],
)
def test_error_event_has_the_status_of_its_code_or_500(event: Any, status: int) -> None:
    error = stream_error(URL, json.dumps(event).encode())
    assert (error.error, error.status_code) == (f"boom (status {status} from {URL})", status)
