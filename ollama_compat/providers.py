"""OpenAI-compatible services other than vLLM, which stand in for it: what each takes, in one table.

The translation writes requests for vLLM. For a provider they are rewritten here: what it has under another name is
renamed, and what it does not have is left out, with a notice for each thing that the caller said. A path that it does
not have is answered here, as a server without it would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from .errors import response_error
from .exchange import Ask, Exchange, Open, Part, Reply, Request
from .settings import Provider

_OURS = (
    "stream_interval",
    "return_token_ids",
    "return_prompt_text",
    "add_generation_prompt",
    "continue_final_message",
    "truncate_prompt_tokens",
    "truncation_side",
)
"""What the translation asks of vLLM for its own purposes: nothing of what the caller said is lost with it."""

_SAMPLING = ("top_k", "min_p", "repetition_penalty", "chat_template_kwargs")
"""What vLLM takes beyond OpenAI's API (vLLM 0.32, "Extra parameters")."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A row of the table. Everything is as in OpenAI's chat completions unless it says otherwise."""

    name: str
    host: str
    """What the host of a base URL ends with."""
    unknown: tuple[str, ...]
    """Parameters that it refuses or ignores."""
    renamed: Mapping[str, str]
    thoughts: str
    """The field of a message in which thoughts of the history are sent; empty: they are left out."""
    json_schema: bool = True
    """Whether `response_format` takes a schema; otherwise any JSON object is asked for."""
    embeddings: bool = True
    completions: bool = False
    """Whether it completes raw prompts (`/v1/completions`)."""


# Sources: the API references of DeepSeek (api-docs.deepseek.com, 2025), OpenAI (platform.openai.com, 2025), OpenRouter
# (openrouter.ai/docs, 2025), Groq (console.groq.com/docs/openai, 2025), Mistral (docs.mistral.ai/api, 2025).
DIALECTS = (
    Dialect(
        "deepseek",
        "api.deepseek.com",
        (*_SAMPLING, "seed", "reasoning_effort"),
        {},
        thoughts="",
        json_schema=False,
        embeddings=False,
    ),
    Dialect("openai", "api.openai.com", _SAMPLING, {"max_tokens": "max_completion_tokens"}, thoughts=""),
    Dialect("openrouter", "openrouter.ai", ("chat_template_kwargs",), {}, thoughts="reasoning", completions=True),
    Dialect(
        "groq", "api.groq.com", (*_SAMPLING, "logprobs", "top_logprobs"), {"max_tokens": "max_completion_tokens"}, ""
    ),
    Dialect("mistral", "api.mistral.ai", (*_SAMPLING, "logprobs", "top_logprobs"), {"seed": "random_seed"}, ""),
    Dialect("vllm", "", (), {}, thoughts="reasoning", completions=True),
    Dialect("openai-compatible", "", _SAMPLING, {}, thoughts=""),
)
"""The last one is that of a provider that none of the others is."""


def dialect_of(provider: Provider) -> Dialect:
    """The row that the settings name, else the one of the provider's host."""
    if provider.dialect is not None:
        return next(row for row in DIALECTS if row.name == provider.dialect)
    host = urlsplit(provider.base_url).hostname or ""
    return next((row for row in DIALECTS if row.host and host.endswith(row.host)), DIALECTS[-1])


def adapted(payload: Part, dialect: Dialect, model: str) -> tuple[Part, tuple[str, ...]]:
    """The request as the provider takes it, and what of the caller's had to be left out."""
    if dialect.name == "vllm":
        return {**payload, "model": model}, ()
    lost = tuple(key for key in dialect.unknown if key in payload)
    kept = {key: value for key, value in payload.items() if key not in (*_OURS, *lost)}
    kept = {dialect.renamed.get(key, key): value for key, value in kept.items()}
    if kept.get("stream"):
        kept["stream_options"] = {"include_usage": True}
    if "messages" in kept:
        kept["messages"] = [_message(message, dialect) for message in kept["messages"]]
    if kept.get("response_format", {}).get("type") == "json_schema" and not dialect.json_schema:
        kept["response_format"] = {"type": "json_object"}
        lost = (*lost, "the schema of format")
    return {**kept, "model": model}, lost


def adapt(exchange: Exchange[None], provider: Provider, name: str, notice: Callable[..., None]) -> Exchange[None]:
    """`exchange`, asked of a provider instead of a vLLM server."""
    dialect = dialect_of(provider)
    outcome: Any = None
    problem: Exception | None = None
    try:
        while True:
            step = exchange.send(outcome) if problem is None else exchange.throw(problem)
            outcome, problem = None, None
            if isinstance(step, (Ask, Open)):
                if not _has(dialect, step.request):
                    outcome = Reply(404, b'{"detail":"Not Found"}')
                    continue
                step = replace(step, request=_rewritten(step.request, provider, name, dialect, notice))
            try:
                outcome = yield step
                if isinstance(outcome, Reply) and outcome.status in (401, 402, 403):
                    raise _denied(provider, name, outcome)
            except Exception as error:
                problem = error
    except StopIteration:
        return
    finally:
        exchange.close()


def _has(dialect: Dialect, request: Request) -> bool:
    paths = {"/v1/chat/completions": True, "/v1/completions": dialect.completions, "/v1/embeddings": dialect.embeddings}
    return dialect.name == "vllm" or paths.get(request.path, False)


def _rewritten(
    request: Request, provider: Provider, name: str, dialect: Dialect, notice: Callable[..., None]
) -> Request:
    payload = request.payload or {}
    model = str(payload.get("model", ""))
    payload, lost = adapted(payload, dialect, provider.models.get(model, model))
    for what in lost:
        notice(f"provider {name} {what}", "%s does not take %s: it is left out", name, what)
    base = provider.base_url.rstrip("/")
    path = request.path.removeprefix("/v1") if urlsplit(base).path.strip("/") else request.path
    return replace(request, base=base, path=path, payload=payload, credential=name)


def _message(message: Part, dialect: Dialect) -> Part:
    thoughts = message.get("reasoning")
    rest = {key: value for key, value in message.items() if key != "reasoning"}
    return {**rest, dialect.thoughts: thoughts} if thoughts and dialect.thoughts else rest


def _denied(provider: Provider, name: str, reply: Reply) -> Exception:
    key = provider.api_key_env or "no api_key_env is set"
    return response_error(f"the provider {name} ({provider.base_url}) refuses the key: check {key}", reply.status)
