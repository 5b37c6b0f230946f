"""What each OpenAI-compatible service takes: the one table of providers.

A row says which keys of our payloads an endpoint knows and under which names, how thinking is switched, where thoughts
stand, and what becomes of a schema. providers.py rewrites requests by it; docs/providers.md has the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..steps import JsonObject

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Switch:
    """How thinking is switched for the models whose names have `pattern`, in lower case."""

    pattern: str
    on: JsonObject
    off: JsonObject | None
    """None: these models think, whatever they are told."""
    levels: Mapping[str, JsonObject]
    """What each level of `think` becomes: low, medium, high, max."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A row of the table. Each endpoint has the keys of our payloads that it takes -> what they are called there."""

    name: str
    source: str
    """The document that says so, with its version or the date at which it said so."""
    chat: Mapping[str, str] = field(default_factory=dict)
    completions: Mapping[str, str] | None = None
    """Raw prompts; None: there is no such endpoint."""
    embeddings: Mapping[str, str] | None = None
    hosts: tuple[str, ...] = ()
    """The hosts that speak it, and those below them."""
    root: str = "/v1"
    """The path in front of `/chat/completions`, where `base_url` has none."""
    thinking: tuple[Switch, ...] = ()
    """The first that fits the model's name says how thinking is switched. What fits none is not told about it."""
    shown: str = "reasoning_content"
    """The field of a reply in which thoughts come; empty: they are not shown."""
    history: str = ""
    """The field of a message in which earlier thoughts are sent; empty: there is none."""
    replays: bool = False
    """Whether thinking is refused after tool calls that come without the thoughts that led to them."""
    schema: Literal["enforced", "asked", "told"] = "asked"
    """What becomes of a schema in `response_format`. Told: only any JSON object is taken."""
    prefix: bool = False
    """Whether an answer that the last message begins is continued, by a key `prefix` of that message. Elsewhere it is
    not asked for: what becomes of such a message is up to the model."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The most that a key may hold. More is held to it."""
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys that some models refuse: pattern of their names -> the provider's keys."""
    signed: Mapping[str, JsonObject] = field(default_factory=dict)
    """What each tool call of the history has to carry for some models: pattern of their names -> fields of the call."""
    tool_names: bool = False
    """Whether a tool's result has the tool's name beside the id of its call."""
    short_ids: bool = False
    """Whether the ids of tool calls must have nine letters or digits."""
    everything: bool = False
    """Whether all of vLLM's own API passes."""

    @property
    def endpoints(self) -> dict[str, Mapping[str, str]]:
        """What it takes at each path that it has."""
        rows = ((CHAT, self.chat), (COMPLETIONS, self.completions), (EMBEDDINGS, self.embeddings))
        return {path: keys for path, keys in rows if keys is not None}


def _keys(names: str, **renamed: str) -> Mapping[str, str]:
    return {name: name for name in names.split()} | renamed


def _effort(
    pattern: str, on: str | None, off: str | None, most: str = "high", also: JsonObject | None = None
) -> Switch:
    """A switch that is `reasoning_effort`. `on` None: it says nothing; `most` is the highest level; `also` goes with
    thinking."""
    levels = {"low": "low", "medium": "medium", "high": "high", "max": most}
    said = {level: {**(also or {}), "reasoning_effort": theirs} for level, theirs in levels.items()}
    begun = {**(also or {}), **({"reasoning_effort": on} if on else {})}
    return Switch(pattern, begun, {"reasoning_effort": off} if off else None, said)


def _toggle(pattern: str, on: JsonObject, off: JsonObject | None) -> Switch:
    """A switch that knows no levels."""
    return Switch(pattern, on, off, dict.fromkeys(("low", "medium", "high", "max"), on))


_MESSAGES = "model messages stream temperature top_p stop response_format tools"
_PROMPT = "model prompt stream temperature top_p stop max_tokens"
_PENALTIES = "presence_penalty frequency_penalty"
_SAMPLING = f"top_k min_p repetition_penalty seed {_PENALTIES}"
_ALTERNATIVES = "logprobs top_logprobs"
_UNSIGNED: JsonObject = {"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}
_PARSED: JsonObject = {"reasoning_format": "parsed"}  # else qwen3's thoughts come inside the answer; gpt-oss refuses it
_OPENAI = f"stream_options seed {_PENALTIES}"

# A payload has at most four stop strings, which every row takes (DeepSeek 16, Gemini 5), one answer (no `n`), and no
# `tool_choice`, `parallel_tool_calls` or `strict`: nothing is said of these. Without `stream_options`, OpenRouter,
# Together, Fireworks and Mistral send the usage with the last event unasked.
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
        schema="told",
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
            _effort(r"^gpt-5(?!.*chat)", "medium", "minimal"),  # the least that it can do
            _effort(r"^o\d", "medium", "low"),
        ),
        shown="",
        limits={"logprobs": 5},  # of raw prompts; in a chat it is a yes or no
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
        shown="reasoning",
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
        shown="reasoning",
        history="reasoning",
    ),
    Dialect(
        "together",
        "together (Python SDK) 3.1.1; docs.together.ai/docs/inference/chat/reasoning, 2026",
        _keys(f"{_MESSAGES} max_tokens {_SAMPLING}"),  # its log probabilities have a shape of their own
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
        shown="reasoning",
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
        shown="content",
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
            _effort(r"gemini-(2\.5|[3-9])", "medium", "low"),  # the least that they can do
        ),
        shown="",
        schema="enforced",
        signed={
            r"gemini-[3-9]": {"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}
        },
        tool_names=True,
    ),
    Dialect("vllm", "vLLM 0.32", everything=True, shown="reasoning", schema="enforced"),
    Dialect(
        "openai-compatible",
        "what OpenAI's API has had for long, openai-python 3.54",
        _keys(f"{_MESSAGES} max_tokens {_OPENAI} {_ALTERNATIVES}"),
        completions=_keys(f"{_PROMPT} {_OPENAI} logprobs"),
        embeddings=_keys("model input"),
        limits={"logprobs": 5},
    ),
)
"""The last one is that of a provider that none of the others is."""
