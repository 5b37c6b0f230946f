"""What vLLM says when it refuses, as Ollama would have said it; and what is raised when a server can't answer.

vLLM has several shapes of error (0.32): `{"error": {"message", "type", "param", "code"}}`, `{"error": "text"}` for a
missing key, `{"detail": "Not Found"}` for a path that a server does not have, `{"detail": [...]}` for a body that
FastAPI refused; and what stands in front of vLLM may answer HTML or nothing. `Refusal` is any of them, read once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ollama import ResponseError

from ..exceptions import (
    CircuitOpen,
    ConnectionsExhausted,
    IncompleteReply,
    MalformedReply,
    RateLimited,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
)
from .model_names import qualified, with_tag

_SHOWN = 300  # characters of a strange body that an error message quotes


E = TypeVar("E", bound=ResponseError)


def response_error(text: str, status: int = -1) -> ResponseError:
    """A `ResponseError` whose `error` is exactly `text`, also where `text` happens to be JSON."""
    return _error(ResponseError, text, status)


def _error(kind: type[E], text: str, status: int = -1) -> E:
    return kind(json.dumps({"error": text}), status)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply of a server: its status and what it says."""

    url: str
    status: int
    message: str
    param: str | None = None
    is_vllm: bool = False
    """Whether it has the shape of vLLM's own errors."""

    @property
    def endpoint_missing(self) -> bool:
        """The server runs, but does not have this path: a pooling model asked to chat, a chat model to embed."""
        return self.status in (404, 405) and self.message in ("Not Found", "Method Not Allowed") and not self.is_vllm

    @property
    def model_missing(self) -> bool:
        """The server does not serve the model (any more)."""
        return self.status == 404 and self.is_vllm

    @property
    def too_long(self) -> bool:
        """The prompt does not fit the model's window."""
        return self.status == 400 and (
            self.param in ("input_tokens", "input_text") or "maximum context length" in self.message
        )

    def error(self) -> ResponseError:
        """This refusal by a vLLM server as the official client's exception, in the words that help most."""
        for needle, text in _TRANSLATIONS:
            if needle in self.message:
                return response_error(text.format(url=self.url), self.status)
        if self.status in (401, 403):
            return response_error(
                f"{self.message or 'unauthorized'} ({self.url} wants another API key: check VLLM_API_KEY)", self.status
            )
        return response_error(f"{self.message or 'empty reply'} (status {self.status} from {self.url})", self.status)


# What vLLM 0.32 says -> what the caller is told: Ollama's words where Ollama has some, else what to do.
_TRANSLATIONS = (
    (
        "requires --enable-auto-tool-choice",
        "the vLLM server at {url} was started without tool calling: "
        "start it with --enable-auto-tool-choice --tool-call-parser NAME",
    ),
    (
        "is not a multimodal model",
        '{{"error":{{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
        '"type":"invalid_request_error"}}}}',
    ),
)


def refusal(url: str, status: int, body: bytes) -> Refusal:
    """Read an error reply, whatever its shape."""
    told = _read(url, status, body)
    return replace(told, message=printable(_INPUT.sub("", told.message)))


# What FastAPI and pydantic quote of a request that they refuse: the prompt may stand in it.
_INPUT = re.compile(r""",? *\\?['"]?input(?:_value)?\\?['"]?[:=].*""", re.DOTALL)


def _read(url: str, status: int, body: bytes) -> Refusal:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(url, status, _quoted(body.decode("utf-8", "replace")))
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], dict):  # Gemini's
        document = document[0]
    if not isinstance(document, dict):
        return Refusal(url, status, _quoted(json.dumps(document)))
    error = document.get("error")
    if isinstance(error, dict):
        param = error.get("param")
        return Refusal(url, status, str(error.get("message") or ""), param if isinstance(param, str) else None, True)
    if isinstance(error, str):
        return Refusal(url, status, error)
    if document.get("object") == "error" or "message" in document:  # vLLM before 0.10
        return Refusal(url, status, str(document.get("message") or ""), None, True)
    detail = document.get("detail", document)
    return Refusal(url, status, detail if isinstance(detail, str) else _quoted(json.dumps(detail)))


def failure(url: str, event: bytes) -> ResponseError:
    """An error that came as an event of a stream; its `code` is the status it would have had as a reply."""
    told = refusal(url, 500, event)
    try:
        code = json.loads(event)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        code = None
    return replace(told, status=code).error() if isinstance(code, int) else told.error()


def _quoted(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def printable(text: str) -> str:
    """`text` without what a terminal would act on; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def unreachable(url: str, model: str | None, reason: str) -> ServerUnreachable:
    """No connection to `url`, wanted for `model`."""
    wanted = f" for model {model!r}" if model else ""
    return ServerUnreachable(
        f"Failed to connect to the vLLM server at {url}{wanted}: {reason}. Please check that it is running, that it "
        f"has finished loading (GET {url}/health), and that VLLM_URLS names it.",
        reason,
    )


def server_timeout(who: str, seconds: float, model: str | None = None) -> ServerTimeout:
    """`who` took the connection and did not answer, wanted for `model`."""
    reason = f"accepted the connection but did not answer within {round(seconds, 2):g} s"
    wanted = f", wanted for model {model!r}," if model else ""
    error = ServerTimeout(
        f"{who[:1].upper()}{who[1:]}{wanted} {reason}. Please check its log: it may be overloaded, or hung.", reason
    )
    error.waited_s = seconds
    return error


def connections_exhausted(who: str, reason: str) -> ConnectionsExhausted:
    """No connection to `who`, for want of what the system said that there is none of."""
    return ConnectionsExhausted(
        f"This process can't open another connection, to {who}: {reason}. Please check its limits (ulimit -n) and how "
        "many calls it makes at once (VLLM_MAX_CONCURRENT).",
        reason,
    )


def nowhere(away: Mapping[str, str], reached: tuple[str, ...], model: str) -> ServerUnreachable:
    """A model that no server in reach has, while others are out of reach and may have it.

    `away` has the URLs of these, each with what it did instead of not being there ("": it is not there).
    """
    told = ", ".join(f"{url} (it {what})" if what else url for url, what in away.items())
    others = f" None of the servers in reach has it ({', '.join(reached)})." if reached else ""
    return ServerUnreachable(
        f"Failed to connect to the vLLM servers {told}, wanted for model {model!r}.{others} Please check that they are "
        f"running, that they have finished loading (GET {next(iter(away))}/health), and that VLLM_URLS names them."
    )


def circuit_open(url: str, failures: int, last: str, seconds: float) -> CircuitOpen:
    """The server at `url` is left alone for `seconds` more; `last` says how it failed."""
    return CircuitOpen(
        f"The vLLM server at {url} has failed {failures} times in a row and is left alone for {seconds:.0f} s more. "
        f"Its last failure: {last}",
        last,
    )


def incomplete_reply(url: str, reason: str) -> IncompleteReply:
    """The connection ended before the answer did. The first words are Ollama's own when its model process dies."""
    return _error(
        IncompleteReply,
        f"an error was encountered while running the model: unexpected EOF (the answer of {url} is not whole: "
        f"{reason})",
    )


def malformed_reply(url: str, what: str) -> MalformedReply:
    """A server sent what is not OpenAI's protocol."""
    return _strange(url, f"sent a malformed reply: {printable(what)}.", "Is it a vLLM server?")


def redirected(url: str, location: str) -> MalformedReply:
    """Redirects are not followed: the prompt and the key go to the servers that are named, and nowhere else."""
    return _strange(url, f"redirects to {_quoted(location)}:", "put the new URL into VLLM_URLS if it is yours", 502)


def elsewhere(error: MalformedReply, instead: str, url: str | None = None) -> MalformedReply:
    """The same of a server that VLLM_URLS does not name: `instead` says what to look at, `url` where it is."""
    return _strange(url or error.url, error.what, instead, error.status_code)


def _strange(url: str, what: str, look: str, status: int = -1) -> MalformedReply:
    error = _error(MalformedReply, f"{url} {what} {look}", status)
    error.url, error.what = url, what
    return error


def rate_limited(operation: str, why: str, waited_s: float) -> RateLimited:
    """Ollama's shape of a 429: the turn of a call did not come in time."""
    return _error(RateLimited, f"too many requests: {operation} waited {waited_s:.2f} s for its turn ({why})", 429)


def no_vllm(url: str, status: int, said: str) -> ResponseError:
    """What is behind a URL does not list models as an OpenAI server does."""
    return response_error(
        f"{url} does not answer like a vLLM server: GET {url}/v1/models gave status {status} ({said or 'no body'}). "
        "Please check VLLM_URLS.",
        502,
    )


def server_not_ready(url: str, status: int, said: str, retry_after: float | None) -> ServerNotReady:
    """A server that does not list its models now, and may in a while; `said` is its reason."""
    why = {429: "has too much to do", 503: "is still loading, or gone behind its proxy"}.get(status, "is not well")
    text = f"{url} {why}: GET {url}/v1/models gave status {status} ({said or 'no body'})"
    look = f"It is ready when GET {url}/health gives status 200. Please check that VLLM_URLS names it."
    error = _error(ServerNotReady, f"{text}. {look}", status)
    error.retry_after = retry_after
    return error


def model_not_found(path: str, name: str) -> ResponseError:
    """Ollama's 404, whose words differ by endpoint (Ollama 0.33, server/routes.go)."""
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
    """What Ollama answers to an empty model name."""
    if path in ("/api/generate", "/api/embed"):
        return response_error("model '' not found", 404)
    return response_error("model is required", 400)


def lacks(name: str, capability: str) -> ResponseError:
    """Ollama's refusal of `tools` or `insert` for a model that has no template for them."""
    return response_error(f"{qualified(name)} does not support {capability}", 400)


def window_exceeded(tokens: int, window: int) -> ResponseError:
    """Ollama's refusal of a prompt that does not fit and may not be cut."""
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
