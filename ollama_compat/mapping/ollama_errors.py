"""The errors that Ollama itself returns, with its exact texts and status codes (Ollama 0.33, server/routes.go)."""

from __future__ import annotations

import json
from typing import TypeVar

from ollama import ResponseError

from .model_names import qualified, with_tag

E = TypeVar("E", bound=ResponseError)


def response_error(text: str, status: int = -1) -> ResponseError:
    """A `ResponseError` with `error` = `text`. `status` is the HTTP status; -1: there is none, as in a stream."""
    return error_of(ResponseError, text, status)


def error_of(kind: type[E], text: str, status: int = -1) -> E:
    """Like `response_error`, for a subclass.

    The official constructor parses its argument as JSON and takes the field `error`. The text is therefore wrapped in
    such an object; otherwise a text that happens to be JSON would change.
    """
    return kind(json.dumps({"error": text}), status)


def model_not_found(path: str, name: str) -> ResponseError:
    """Ollama's status 404 for an unknown model. The text depends on the endpoint `path`."""
    match path:
        case "/api/embed" | "/api/embeddings":
            return response_error(f'model "{name}" not found, try pulling it first', 404)
        case "/api/show":
            return response_error(f"model '{with_tag(name)}' not found", 404)
        case "/api/copy":
            return response_error(f'model "{name}" not found', 404)
        case _:
            return response_error(f"model '{name}' not found", 404)


def model_required(path: str) -> ResponseError:
    """Ollama's error for an empty model name. Text and status depend on the endpoint `path`."""
    if path in ("/api/generate", "/api/embed"):
        return response_error("model '' not found", 404)
    return response_error("model is required", 400)


def lacks(name: str, capability: str) -> ResponseError:
    """Ollama's status 400 for a request that needs a capability (`tools`, `insert`, ...) that the model lacks."""
    return response_error(f"{qualified(name)} does not support {capability}", 400)


def window_exceeded(tokens: int, window: int) -> ResponseError:
    """Ollama's status 400 for a prompt of `tokens` tokens that exceeds the `window` and may not be truncated."""
    return response_error(
        json.dumps(
            {
                "error": {
                    "code": 400,
                    "message": f"request ({tokens} tokens) exceeds the available context size ({window} tokens), "
                    "try increasing it",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": tokens,
                    "n_ctx": window,
                }
            },
            separators=(",", ":"),
        ),
        400,
    )
