"""Parses error replies and translates them into the exceptions of the official client.

vLLM 0.32 has several shapes of error: `{"error": {"message", "type", "param", "code"}}`; `{"error": "text"}` for a
missing key; `{"detail": "Not Found"}` for an unknown path; `{"detail": [...]}` for a body that FastAPI rejects. A proxy
in front of vLLM may reply with HTML or an empty body. `Refusal` represents all of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from ollama import ResponseError

from .ollama_errors import response_error
from .text import printable, shortened


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply of a server."""

    url: str
    status: int
    """The HTTP status."""
    message: str
    """The error text, printable and without the prompt. Empty if the reply has none."""
    param: str | None = None
    """The request parameter that the server rejects."""
    is_vllm: bool = False
    """Whether the reply has the shape of vLLM's own errors."""

    @property
    def endpoint_missing(self) -> bool:
        """Whether the server does not have this path: a chat request to a pooling model, or the reverse."""
        return self.status in (404, 405) and self.message in ("Not Found", "Method Not Allowed") and not self.is_vllm

    @property
    def model_missing(self) -> bool:
        """Whether the server does not serve the model, or no longer serves it."""
        return self.status == 404 and self.is_vllm

    @property
    def too_long(self) -> bool:
        """Whether the prompt does not fit the model's window."""
        return self.status == 400 and (
            self.param in ("input_tokens", "input_text") or "maximum context length" in self.message
        )

    def error(self, *, tool_parser: str | None = None) -> ResponseError:
        """The exception for this refusal by a vLLM server: Ollama's text if it has one, otherwise what to do.

        `tool_parser`: the `--tool-call-parser` of the model, if it is known.
        """
        for needle, text in _TRANSLATIONS:
            if needle in self.message:
                return response_error(text.format(url=self.url, parser=tool_parser or "NAME"), self.status)
        if self.status in (401, 403):
            return response_error(
                f"{self.message or 'unauthorized'} ({self.url} requires a valid API key: check VLLM_API_KEY)",
                self.status,
            )
        return response_error(f"{self.message or 'empty reply'} (status {self.status} from {self.url})", self.status)


# Part of a message of vLLM 0.32 -> the text of the exception.
_TRANSLATIONS = (
    (
        "requires --enable-auto-tool-choice",
        "the vLLM server at {url} was started without tool calling: "
        "start it with --enable-auto-tool-choice --tool-call-parser {parser}",
    ),
    (
        "is not a multimodal model",
        '{{"error":{{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
        '"type":"invalid_request_error"}}}}',
    ),
)


def refusal(url: str, status: int, body: bytes) -> Refusal:
    """Parse an error reply of any shape."""
    parsed = _parsed(url, status, body)
    return replace(parsed, message=printable(_INPUT.sub("", parsed.message)))


# The part of an error text in which FastAPI and pydantic quote the rejected request. It may contain the prompt.
_INPUT = re.compile(r""",? *\\?['"]?input(?:_value)?\\?['"]?[:=].*""", re.DOTALL)


def _parsed(url: str, status: int, body: bytes) -> Refusal:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(url, status, shortened(body.decode("utf-8", "replace")))
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], dict):  # Gemini
        document = document[0]
    if not isinstance(document, dict):
        return Refusal(url, status, shortened(json.dumps(document)))
    error = document.get("error")
    if isinstance(error, dict):
        param = error.get("param")
        return Refusal(url, status, str(error.get("message") or ""), param if isinstance(param, str) else None, True)
    if isinstance(error, str):
        return Refusal(url, status, error)
    if document.get("object") == "error" or "message" in document:  # vLLM before 0.10
        return Refusal(url, status, str(document.get("message") or ""), None, True)
    detail = document.get("detail", document)
    return Refusal(url, status, detail if isinstance(detail, str) else shortened(json.dumps(detail)))


def stream_error(url: str, event: bytes) -> ResponseError:
    """The exception for an error event in a stream. Its `code`, if any, is the status; otherwise the status is 500."""
    parsed = refusal(url, 500, event)
    try:
        code = json.loads(event)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        code = None
    return (replace(parsed, status=code) if isinstance(code, int) else parsed).error()
