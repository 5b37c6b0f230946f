"""The table of dialects: what each OpenAI-compatible provider accepts in a request.

A row of `DIALECTS` holds the keys of our payloads that each endpoint accepts and their names there, how a model's
thinking is enabled, which field holds thinking in a reply, and how a schema is requested. request.py applies a row to
a payload. docs/providers.md has the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from ..steps import JsonObject

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Switch:
    """How `think` is sent for the models whose name matches the regular expression `pattern`, in lower case."""

    pattern: str
    on: JsonObject
    off: JsonObject | None
    """The fields that disable thinking; None: these models always think."""
    levels: Mapping[str, JsonObject]
    """The fields for each level of `think`: low, medium, high, max."""


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """A row of the table. Each endpoint maps the keys of our payloads that it accepts to their names there."""

    name: str
    source: str
    """The documents that the row is taken from, with their version or date."""
    chat: Mapping[str, str] = field(default_factory=dict)
    completions: Mapping[str, str] | None = None
    """The endpoint for raw prompts; None: the provider has none."""
    embeddings: Mapping[str, str] | None = None
    hosts: tuple[str, ...] = ()
    """The hosts that use this dialect. Their subdomains do, too."""
    root: str = "/v1"
    """The path in front of `/chat/completions`, for a `base_url` without a path."""
    thinking: tuple[Switch, ...] = ()
    """The first row that matches the model's name applies. If none matches, `think` is not sent."""
    reasoning_field: str = "reasoning_content"
    """The field of a reply that holds the thinking; empty: the provider does not return it."""
    history: str = ""
    """The field of a message that holds earlier thinking; empty: the provider does not accept it."""
    replays: bool = False
    """Whether the provider refuses to think after tool calls whose thinking is missing from the history."""
    schema: Literal["enforced", "requested", "prompt"] = "requested"
    """What happens to a schema in `response_format`. "enforced": the reply fits it. "requested": it is sent, but not
    enforced. "prompt": the provider accepts no schema, so it is written into the system prompt."""
    prefix: bool = False
    """Whether the key `prefix` of the last message makes the model continue it. Other providers have no such key: the
    model continues the message or answers it."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The largest accepted value of a key. Larger values are reduced to it."""
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys that some models refuse: regular expression for the model's name -> the provider's keys."""
    signed: Mapping[str, JsonObject] = field(default_factory=dict)
    """Fields that some models require in each tool call of the history: regular expression -> fields."""
    tool_names: bool = False
    """Whether a tool's result carries the tool's name besides the id of its call."""
    short_ids: bool = False
    """Whether the ids of tool calls must have nine letters or digits."""
    everything: bool = False
    """Whether the provider accepts vLLM's whole API."""
    endpoints: Mapping[str, Mapping[str, str]] = field(init=False)
    """The accepted keys of each path that the provider has."""

    def __post_init__(self) -> None:
        """Collect the endpoints."""
        rows = ((CHAT, self.chat), (COMPLETIONS, self.completions), (EMBEDDINGS, self.embeddings))
        object.__setattr__(self, "endpoints", {path: keys for path, keys in rows if keys is not None})

    def supports(self, path: str) -> bool:
        """Whether the provider has the endpoint."""
        return self.everything or path in self.endpoints


@lru_cache(maxsize=64)
def dialect_of(base_url: str, name: str | None = None) -> Dialect:
    """The row called `name`; without a name, the row of the URL's host."""
    if name is not None:
        return next(row for row in DIALECTS if row.name == name)
    host = f".{urlsplit(base_url).hostname or ''}"
    return next((row for row in DIALECTS if any(host.endswith(f".{known}") for known in row.hosts)), DIALECTS[-1])


def _keys(names: str, **renamed: str) -> Mapping[str, str]:
    return {name: name for name in names.split()} | renamed


def _effort(
    pattern: str, on: str | None, off: str | None, most: str = "high", also: JsonObject | None = None
) -> Switch:
    """A switch that uses `reasoning_effort`.

    `on` None: `think=True` sends no effort. `most` is the provider's value for `max`. `also` holds further fields that
    enable thinking.
    """
    extra = also or {}
    efforts = {"low": "low", "medium": "medium", "high": "high", "max": most}
    levels = {level: {**extra, "reasoning_effort": effort} for level, effort in efforts.items()}
    enabled = {**extra, "reasoning_effort": on} if on else extra
    return Switch(pattern, enabled, {"reasoning_effort": off} if off else None, levels)


def _toggle(pattern: str, on: JsonObject, off: JsonObject | None) -> Switch:
    """A switch without levels."""
    return Switch(pattern, on, off, dict.fromkeys(("low", "medium", "high", "max"), on))


_MESSAGES = "model messages stream temperature top_p stop response_format tools"
_PROMPT = "model prompt stream temperature top_p stop max_tokens"
_PENALTIES = "presence_penalty frequency_penalty"
_SAMPLING = f"top_k min_p repetition_penalty seed {_PENALTIES}"
_ALTERNATIVES = "logprobs top_logprobs"
_UNSIGNED: JsonObject = {"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}
# Without it, qwen3 writes its thinking into `content`. gpt-oss refuses it.
_PARSED: JsonObject = {"reasoning_format": "parsed"}
_OPENAI = f"stream_options seed {_PENALTIES}"

# The table has no columns for `stop` (a payload has at most four stop strings and each provider accepts them: DeepSeek
# 16, Gemini 5), nor for `n`, `tool_choice`, `parallel_tool_calls` and `strict`, which a payload never has. OpenRouter,
# Together, Fireworks and Mistral send the usage with the last event without `stream_options`.
DIALECTS = (
    Dialect(
        "deepseek",
        "api-docs.deepseek.com, guides thinking_mode and json_mode, and its API reference, 2026",
        _keys(f"{_MESSAGES} max_tokens stream_options {_PENALTIES} {_ALTERNATIVES}"),
        hosts=("api.deepseek.com",),
        thinking=(
            replace(
                _effort("", None, None, most="max", also={"thinking": {"type": "enabled"}}),
                off={"thinking": {"type": "disabled"}},
            ),
        ),
        history="reasoning_content",
        replays=True,
        schema="prompt",
    ),
    Dialect(
        "openai",
        "openai-python 3.54; learn.microsoft.com, Azure OpenAI v1 API, 2026",
        _keys(f"{_MESSAGES} {_OPENAI} {_ALTERNATIVES}", max_tokens="max_completion_tokens"),
        completions=_keys(f"{_PROMPT} {_OPENAI} logprobs"),
        embeddings=_keys("model input encoding_format"),
        hosts=("api.openai.com", "openai.azure.com"),
        thinking=(
            _effort(r"^gpt-(5\.[1-9]|[6-9])(?!.*chat)", "medium", "none"),
            _effort(r"^gpt-5(?!.*chat)", "medium", "minimal"),  # its lowest effort
            _effort(r"^o\d", "medium", "low"),
        ),
        reasoning_field="",
        limits={"logprobs": 5},  # of raw prompts; in a chat, `logprobs` is a boolean
        refused={
            r"^(o\d|gpt-[5-9])(?!.*chat)": frozenset(
                {"temperature", "top_p", "stop", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"}
            )
        },
    ),
    Dialect(
        "openrouter",
        "openrouter (Python SDK) 1.3.84; openrouter.ai/docs, parameters and reasoning tokens, 2026",
        _keys(f"{_MESSAGES} {_SAMPLING} {_ALTERNATIVES}", max_tokens="max_completion_tokens"),
        embeddings=_keys("model input encoding_format"),
        hosts=("openrouter.ai",),
        root="/api/v1",
        thinking=(_effort("", "medium", "none"),),
        reasoning_field="reasoning",
        history="reasoning",
    ),
    Dialect(
        "groq",
        "groq (Python SDK) 1.7.0; console.groq.com/docs, openai, structured-outputs and reasoning, 2026",
        _keys(f"{_MESSAGES} seed stream_options", max_tokens="max_completion_tokens"),
        embeddings=_keys("model input encoding_format"),
        hosts=("api.groq.com",),
        root="/openai/v1",
        thinking=(
            _effort(r"gpt-oss", None, "low"),
            _effort(r"qwen3\.8", "medium", "none", also=_PARSED),
            _toggle(r"qwen3", {**_PARSED, "reasoning_effort": "default"}, {"reasoning_effort": "none"}),
        ),
        reasoning_field="reasoning",
        history="reasoning",
    ),
    Dialect(
        "together",
        "together (Python SDK) 3.1.1; docs.together.ai/docs/inference/chat/reasoning, 2026",
        _keys(f"{_MESSAGES} max_tokens {_SAMPLING}"),  # its log probabilities have another format
        completions=_keys(f"{_PROMPT} {_SAMPLING}"),
        embeddings=_keys("model input"),
        hosts=("api.together.xyz", "api.together.ai"),
        thinking=(
            _effort(r"gpt-oss", None, "low"),
            _toggle(
                r"deepseek-v(3\.[1-9]|[4-9])|glm-(4\.[5-9]|[5-9])|kimi-k2\.[5-9]|qwen3\.[5-9]|cogito",
                {"reasoning": {"enabled": True}},
                {"reasoning": {"enabled": False}},
            ),
        ),
        reasoning_field="reasoning",
        history="reasoning",
        schema="enforced",
    ),
    Dialect(
        "fireworks",
        "fireworks-ai (Python SDK) 1.2.30; docs.fireworks.ai/guides/reasoning, 2026",
        _keys(f"{_MESSAGES} max_tokens {_SAMPLING} {_ALTERNATIVES}"),
        completions=_keys(f"{_PROMPT} {_SAMPLING} logprobs response_format"),
        embeddings=_keys("model input"),
        hosts=("api.fireworks.ai",),
        root="/inference/v1",
        thinking=(
            _effort(r"gpt-oss", None, "low"),
            _effort(r"minimax-m2", "medium", None),
            _effort(r"qwen3|deepseek-v3p[1-9]|deepseek-v[4-9]|glm-", "medium", "none"),
        ),
        history="reasoning_content",
        schema="enforced",
        limits={"top_k": 100, "logprobs": 5, "top_logprobs": 5},
    ),
    Dialect(
        "mistral",
        "mistralai (Python SDK) 3.7.0; docs.mistral.ai/capabilities/reasoning, 2026",
        _keys(
            f"{_MESSAGES} max_tokens top_k repetition_penalty {_PENALTIES} {_ALTERNATIVES}",
            seed="random_seed",
        ),
        embeddings=_keys("model input encoding_format"),
        hosts=("api.mistral.ai",),
        thinking=(
            _toggle(r"magistral", {}, None),
            _toggle(
                r"mistral-(small|medium-[3-9]|large-[4-9])", {"reasoning_effort": "high"}, {"reasoning_effort": "none"}
            ),
        ),
        reasoning_field="content",
        schema="enforced",
        prefix=True,
        tool_names=True,
        short_ids=True,
    ),
    Dialect(
        "gemini",
        "ai.google.dev/gemini-api/docs, openai and thought-signatures, 2026; refusals of its endpoint, 2025",
        _keys(f"{_MESSAGES} max_tokens stream_options"),
        embeddings=_keys("model input"),
        hosts=("generativelanguage.googleapis.com",),
        root="/v1beta/openai",
        thinking=(
            _effort(r"gemini-2\.5-flash", "medium", "none"),
            _effort(r"gemini-(2\.5|[3-9])", "medium", "low"),  # their lowest effort
        ),
        reasoning_field="",
        schema="enforced",
        signed={r"gemini-[3-9]": _UNSIGNED},
        tool_names=True,
    ),
    Dialect("vllm", "vLLM 0.32", everything=True, reasoning_field="reasoning", schema="enforced"),
    Dialect(
        "openai-compatible",
        "the long-standing keys of OpenAI's API, openai-python 3.54",
        _keys(f"{_MESSAGES} max_tokens {_OPENAI} {_ALTERNATIVES}"),
        completions=_keys(f"{_PROMPT} {_OPENAI} logprobs"),
        embeddings=_keys("model input"),
        limits={"logprobs": 5},
    ),
)
"""The last row applies to the providers that no other row matches."""
