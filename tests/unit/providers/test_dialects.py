"""The table of dialects: what each row does with a request that has every key, and properties of every request."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.providers.dialects import CHAT, COMPLETIONS, DIALECTS, EMBEDDINGS, Dialect
from ollama_compat.providers.request import (
    CONTEXT,
    CONTINUATION,
    SCHEMA_IN_PROMPT,
    SCHEMA_NOT_ENFORCED,
    THINKING_HISTORY,
    converted,
)
from ollama_compat.steps import JsonObject
from tests.payloads import (
    BY_NAME,
    FULL,
    HISTORY,
    OTHERS,
    RAW,
    SAMPLING,
    SCHEMA,
    TEXTS,
    VLLM_ONLY,
    as_format,
    convert_chat,
)

# Each row, given a request that has every key

MAX_COMPLETION = "max_completion_tokens"
COMMON = {"model", "messages", "stream", "temperature", "top_p", "stop", "response_format", "tools"}
PENALTIES = {"presence_penalty", "frequency_penalty"}
ALTERNATIVES = {"logprobs", "top_logprobs"}
EXTRA = {"top_k", "min_p", "repetition_penalty"}
OPTIONS = {"stream_options", "seed"}

CHATS: dict[str, tuple[str, set[str], set[str]]] = {
    "deepseek": (
        "deepseek-v4-pro",
        COMMON | PENALTIES | ALTERNATIVES | {"max_tokens", "stream_options", "thinking"},
        {"top_k", "min_p", "seed", "repeat_penalty", CONTINUATION, SCHEMA_IN_PROMPT},
    ),
    "openai": (
        "gpt-4.1",
        COMMON | PENALTIES | ALTERNATIVES | OPTIONS | {MAX_COMPLETION},
        {"top_k", "min_p", "repeat_penalty", "think", THINKING_HISTORY, CONTINUATION, SCHEMA_NOT_ENFORCED},
    ),
    "openrouter": (
        "vendor/model",
        COMMON | PENALTIES | ALTERNATIVES | EXTRA | {"seed", MAX_COMPLETION, "reasoning_effort"},
        {CONTINUATION, SCHEMA_NOT_ENFORCED},
    ),
    "groq": (
        "llama-3.3-70b-versatile",
        COMMON | OPTIONS | {MAX_COMPLETION},
        EXTRA - {"repetition_penalty"}
        | PENALTIES
        | ALTERNATIVES
        | {"repeat_penalty", "think", CONTINUATION, SCHEMA_NOT_ENFORCED},
    ),
    "together": (
        "zai-org/GLM-5.1",
        COMMON | PENALTIES | EXTRA | {"seed", "max_tokens", "reasoning"},
        ALTERNATIVES | {CONTINUATION},
    ),
    "fireworks": (
        "accounts/fireworks/models/qwen3-8b",
        COMMON | PENALTIES | EXTRA | ALTERNATIVES | {"seed", "max_tokens", "reasoning_effort"},
        {"top_logprobs above 5", CONTINUATION},
    ),
    "mistral": (
        "mistral-small-latest",
        COMMON
        | PENALTIES
        | ALTERNATIVES
        | {"top_k", "repetition_penalty", "random_seed", "max_tokens", "reasoning_effort"},
        {"min_p", THINKING_HISTORY},
    ),
    "gemini": (
        "gemini-3-flash",
        COMMON | {"max_tokens", "stream_options", "reasoning_effort"},
        EXTRA - {"repetition_penalty"}
        | PENALTIES
        | ALTERNATIVES
        | {"seed", "repeat_penalty", THINKING_HISTORY, CONTINUATION},
    ),
    "openai-compatible": (
        "any",
        COMMON | PENALTIES | ALTERNATIVES | OPTIONS | {"max_tokens"},
        {"top_k", "min_p", "repeat_penalty", "think", THINKING_HISTORY, CONTINUATION, SCHEMA_NOT_ENFORCED},
    ),
}


def test_expectations_cover_every_dialect() -> None:
    assert {*CHATS, "vllm"} == set(BY_NAME)


@pytest.mark.parametrize("name", CHATS)
def test_chat_keeps_documented_keys_and_reports_the_rest(name: str) -> None:
    model, keys, lost = CHATS[name]
    payload, reported = converted(FULL, CHAT, BY_NAME[name], model)
    assert set(payload) == keys
    assert set(reported) == lost | {CONTEXT}
    assert payload["model"] == model


def test_vllm_dialect_keeps_every_key() -> None:
    assert converted(FULL, CHAT, BY_NAME["vllm"], "x") == ({**FULL, "model": "x"}, ())


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("openai", {"top_k", "min_p", "repeat_penalty", "logprobs above 5", CONTEXT}),
        ("together", {"logprobs", CONTEXT}),
        ("fireworks", {"logprobs above 5", CONTEXT}),
        ("openai-compatible", {"top_k", "min_p", "repeat_penalty", "logprobs above 5", CONTEXT}),
    ],
)
def test_raw_prompt_reports_what_the_provider_lacks(name: str, lost: set[str]) -> None:
    payload, reported = converted(RAW, COMPLETIONS, BY_NAME[name], "m")
    assert set(reported) == lost
    assert payload["max_tokens"] == 100
    assert payload.get("logprobs", 5) == 5


def test_dialects_have_the_documented_endpoints() -> None:
    assert {row.name for row in OTHERS if COMPLETIONS in row.endpoints} == {
        *("openai", "together", "fireworks", "openai-compatible"),
    }
    assert {row.name for row in OTHERS if EMBEDDINGS not in row.endpoints} == {"deepseek"}


@pytest.mark.parametrize("row", [row for row in OTHERS if row.embeddings], ids=lambda row: row.name)
def test_embeddings_request_keeps_base64_only_for_providers_that_support_it(row: Dialect) -> None:
    payload, reported = converted(TEXTS, EMBEDDINGS, row, "m")
    base64 = {"encoding_format": "base64"} if row.name in ("openai", "openrouter", "groq", "mistral") else {}
    assert payload == {"model": "m", "input": ["a"], **base64}
    assert reported == ("num_ctx",)


def test_values_without_effect_are_not_reported() -> None:
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert convert_chat("gemini", **neutral)[1] == ()
    assert converted({**TEXTS, "truncate_prompt_tokens": -1}, EMBEDDINGS, BY_NAME["openai"], "m")[1] == ()


def test_unknown_key_is_removed_and_reported() -> None:
    payload, reported = convert_chat("openrouter", bad_words=["x"])
    assert "bad_words" not in payload
    assert reported == ("bad_words",)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_stream_options_request_only_usage(row: Dialect) -> None:
    payload, _ = converted(FULL, CHAT, row, "m")
    assert payload.get("stream_options", {"include_usage": True}) == {"include_usage": True}


# Names and limits


@pytest.mark.parametrize(
    ("dialect", "key"),
    [("openai", MAX_COMPLETION), ("groq", MAX_COMPLETION), ("openrouter", MAX_COMPLETION), ("mistral", "max_tokens")],
)
def test_max_tokens_has_the_providers_name(dialect: str, key: str) -> None:
    assert convert_chat(dialect, max_tokens=5)[0][key] == 5


def test_seed_is_renamed_for_mistral() -> None:
    payload, _ = convert_chat("mistral", seed=5)
    assert payload["random_seed"] == 5
    assert "seed" not in payload


def test_value_above_a_limit_is_reduced_to_it() -> None:
    payload, reported = convert_chat("fireworks", top_k=500, top_logprobs=5)
    assert payload["top_k"] == 100
    assert reported == ("top_k above 100",)


@pytest.mark.parametrize("model", ["o3", "gpt-5", "gpt-5.4-mini", "gpt-6-astra"])
def test_openai_reasoning_models_get_no_sampling_keys(model: str) -> None:
    payload, reported = convert_chat("openai", model, **SAMPLING, logprobs=True)
    assert not payload.keys() & {"temperature", "top_p", "stop", "logprobs", *PENALTIES}
    assert {"temperature", "top_p", "stop", "logprobs"} <= set(reported)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "gpt-5.1-chat"])
def test_other_openai_models_get_sampling_keys(model: str) -> None:
    assert convert_chat("openai", model, temperature=0.8)[0]["temperature"] == 0.8


# Properties of every request

PAYLOADS = st.fixed_dictionaries(
    {"model": st.just("served"), "messages": st.sampled_from([HISTORY, HISTORY[:2], HISTORY[1:2], HISTORY[:4]])},
    optional={
        **{key: st.just(value) for key, value in FULL.items() if key not in ("model", "messages")},
        "chat_template_kwargs": st.sampled_from([{"enable_thinking": True}, {"thinking": False}, {"other": 1}]),
        "reasoning_effort": st.sampled_from(["low", "medium", "high", "max"]),
        "response_format": st.sampled_from([as_format({"type": "object"}), as_format(SCHEMA)]),
        "top_k": st.integers(0, 200),
        "top_logprobs": st.integers(0, 20),
    },
)
MODELS = st.sampled_from([model for model, _, _ in CHATS.values()] + ["gpt-5.2", "o3", "gpt-oss-20b", "minimax-m2"])


@given(PAYLOADS, st.sampled_from(DIALECTS), MODELS)
def test_conversion_keeps_its_input_and_is_idempotent(payload: JsonObject, row: Dialect, model: str) -> None:
    before = copy.deepcopy(payload)
    once, _ = converted(payload, CHAT, row, model)
    assert payload == before
    twice, reported = converted(once, CHAT, row, model)
    assert twice == once
    assert row.everything or not set(reported) - {SCHEMA_NOT_ENFORCED}


@given(PAYLOADS, st.sampled_from(OTHERS), MODELS)
def test_keys_of_vllm_are_never_sent(payload: JsonObject, row: Dialect, model: str) -> None:
    sent, _ = converted(payload, CHAT, row, model)
    assert not sent.keys() & VLLM_ONLY
    assert "continuous_usage_stats" not in sent.get("stream_options", {})


@given(PAYLOADS, st.sampled_from(OTHERS), MODELS)
def test_removed_keys_are_reported(payload: JsonObject, row: Dialect, model: str) -> None:
    sent, reported = converted(payload, CHAT, row, model)
    for key, name in (("seed", "seed"), ("min_p", "min_p"), ("repetition_penalty", "repeat_penalty")):
        if key in payload and not sent.keys() & {key, "random_seed" if key == "seed" else key}:
            assert name in reported
