"""The recorded requests and answers of a real Ollama 0.33, and the known differences on vLLM.

Each line of `golden/ollama.jsonl` is a case: the request, the answer, and whether a second run returned the same text
(`steady`). vLLM serves the same weights, so the comparison is nearly exact. `DIFFERENT` lists every known difference
with its reason.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ollama

GOLDEN = Path(__file__).parent / "golden" / "ollama.jsonl"
LONG = "<hello world x3000>"

METHODS = {
    "/api/chat": ("chat", ollama.ChatResponse),
    "/api/generate": ("generate", ollama.GenerateResponse),
    "/api/embed": ("embed", ollama.EmbedResponse),
    "/api/embeddings": ("embeddings", ollama.EmbeddingsResponse),
    "/api/show": ("show", ollama.ShowResponse),
    "/api/tags": ("list", ollama.ListResponse),
    "/api/ps": ("ps", ollama.ProcessResponse),
    "/api/create": ("create", ollama.ProgressResponse),
    "/api/copy": ("copy", ollama.StatusResponse),
    "/api/delete": ("delete", ollama.StatusResponse),
    "/api/pull": ("pull", ollama.ProgressResponse),
}

ASPECTS = ("outcome", "fields", "end", "counts", "text")
"""The compared aspects, from coarse to fine: answer or error with its status; the fields and their types;
`done_reason`; token counts; text, thinking, tool calls, vectors, or an error's message."""


@dataclass(frozen=True)
class Case:
    """One recorded request and its answer."""

    name: str
    method: str
    arguments: dict[str, Any]
    status: int
    body: Any
    steady: bool

    @property
    def stream(self) -> bool:
        return bool(self.arguments.get("stream"))


def cases() -> tuple[list[Case], dict[str, str]]:
    """The cases in their order, and the names of those that the official client cannot send, with the reason."""
    supported, unsupported = [], {}
    for line in GOLDEN.read_text("utf-8").splitlines():
        row = json.loads(line)
        case, reason = _case(row)
        if case is None:
            unsupported[row["case"]] = reason
        else:
            supported.append(case)
    return supported, unsupported


def _case(row: dict[str, Any]) -> tuple[Case | None, str]:
    if row["path"] not in METHODS:
        return None, "the client has no method for the path"
    if row["case"] == "wrong-method":
        return None, "the client sends the right method"
    request = {} if row["request"] is None else row["request"]
    if not isinstance(request, dict):
        return None, "the client sends a JSON object"
    if row["case"] == "generate-stream-wrongtype":
        return None, "the client converts the value to `True`"
    if "_debug_render_only" in request:
        return None, "the client has no such field; the prompt's token count is compared in other cases"
    arguments = json.loads(json.dumps(request).replace(LONG, "hello world " * 3000))
    if "from" in arguments:
        arguments["from_"] = arguments.pop("from")
    method, _ = METHODS[row["path"]]
    if method in ("chat", "generate", "create", "pull"):
        arguments.setdefault("stream", True)
    unknown = set(arguments) - set(inspect.signature(getattr(ollama.Client, method)).parameters)
    if unknown:
        return None, f"the client has no parameter {', '.join(sorted(unknown))}"
    return Case(row["case"], method, arguments, row["status"], row["body"], row["steady"]), ""


def recorded_parts(case: Case, path: str) -> list[dict[str, Any]]:
    """The recorded answer as the official types parse it, without fields that they do not have."""
    if case.method in ("copy", "delete"):
        return [{"status": "success"}]
    bodies = case.body if isinstance(case.body, list) else [case.body]
    shape: Any = METHODS[path][1]
    return [shape(**body).model_dump(exclude_none=True) for body in bodies]


ARITHMETIC = "vLLM and llama.cpp add numbers in a different order, and two tokens are almost equally likely"
SPACES = "vLLM's grammar allows different whitespace than llama.cpp's"

DIFFERENT: dict[str, tuple[frozenset[str], str]] = {}


def _differ(reason: str, aspects: str, *names: str) -> None:
    for name in names:
        DIFFERENT[name] = (frozenset(aspects.split()), reason)


_ALL = "end counts text"

_differ(ARITHMETIC, _ALL, "generate-raw", "generate-raw-stream", "generate-raw-json", "generate-prompt-spaces")
_differ(ARITHMETIC, _ALL, "generate-json", "generate-json-stream", "chat-json", "generate-schema-empty")
_differ(ARITHMETIC, _ALL, "generate-think-model", "generate-think-model-stream", "generate-fim-run")
_differ(ARITHMETIC, _ALL, "generate-think-thinker-high", "generate-think-thinker-unset")
_differ(ARITHMETIC, _ALL, "chat-think-model", "chat-think-model-unset", "chat-think-model-stream")
_differ(SPACES, _ALL, "generate-schema", "chat-schema-stream")
_differ("vLLM shows the model `description: null` if a tool has no description", "counts", "chat-tools-unknown-name")
_differ(
    "the client drops a tool without a function: Ollama shows it to the model, vLLM refuses it",
    _ALL,
    "chat-tools-bad",
)
_differ("at the default temperature two runs on one server differ", _ALL, "generate-options-null")
_differ("the window of the server is 256 tokens, that of Ollama 512", "counts text", "embed-long-true")
_differ("the message comes from the server", "text", "generate-schema-bad")
