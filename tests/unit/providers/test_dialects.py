"""The table of providers: what each row makes of a request that has everything, and what holds for any request."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.providers.dialects import CHAT, COMPLETIONS, DIALECTS, EMBEDDINGS, Dialect
from ollama_compat.providers.request import CONTEXT, CONTINUED, SCHEMA_ASKED, SCHEMA_TOLD, THOUGHTS, adapted
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
    asked,
)

# Every row: all that the translation can say goes in

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
        {"top_k", "min_p", "seed", "repeat_penalty", CONTINUED, SCHEMA_TOLD},
    ),
    "openai": (
        "gpt-4.1",
        COMMON | PENALTIES | ALTERNATIVES | OPTIONS | {MAX_COMPLETION},
        {"top_k", "min_p", "repeat_penalty", "think", THOUGHTS, CONTINUED, SCHEMA_ASKED},
    ),
    "openrouter": (
        "vendor/model",
        COMMON | PENALTIES | ALTERNATIVES | EXTRA | {"seed", MAX_COMPLETION, "reasoning_effort"},
        {CONTINUED, SCHEMA_ASKED},
    ),
    "groq": (
        "llama-3.3-70b-versatile",
        COMMON | OPTIONS | {MAX_COMPLETION},
        EXTRA - {"repetition_penalty"}
        | PENALTIES
        | ALTERNATIVES
        | {"repeat_penalty", "think", CONTINUED, SCHEMA_ASKED},
    ),
    "together": (
        "zai-org/GLM-5.1",
        COMMON | PENALTIES | EXTRA | {"seed", "max_tokens", "reasoning"},
        ALTERNATIVES | {CONTINUED},
    ),
    "fireworks": (
        "accounts/fireworks/models/qwen3-8b",
        COMMON | PENALTIES | EXTRA | ALTERNATIVES | {"seed", "max_tokens", "reasoning_effort"},
        {"top_logprobs above 5", CONTINUED},
    ),
    "mistral": (
        "mistral-small-latest",
        COMMON
        | PENALTIES
        | ALTERNATIVES
        | {"top_k", "repetition_penalty", "random_seed", "max_tokens", "reasoning_effort"},
        {"min_p", THOUGHTS},
    ),
    "gemini": (
        "gemini-3-flash",
        COMMON | {"max_tokens", "stream_options", "reasoning_effort"},
        EXTRA - {"repetition_penalty"} | PENALTIES | ALTERNATIVES | {"seed", "repeat_penalty", THOUGHTS, CONTINUED},
    ),
    "openai-compatible": (
        "any",
        COMMON | PENALTIES | ALTERNATIVES | OPTIONS | {"max_tokens"},
        {"top_k", "min_p", "repeat_penalty", "think", THOUGHTS, CONTINUED, SCHEMA_ASKED},
    ),
}


def test_every_row_is_spoken_of_here() -> None:
    assert {*CHATS, "vllm"} == set(BY_NAME)


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_has_the_keys_that_the_provider_documents_and_the_rest_is_told(name: str) -> None:
    model, keys, lost = CHATS[name]
    payload, told = adapted(FULL, CHAT, BY_NAME[name], model)
    assert set(payload) == keys
    assert set(told) == lost | {CONTEXT}
    assert payload["model"] == model


def test_another_vllm_takes_everything() -> None:
    assert adapted(FULL, CHAT, BY_NAME["vllm"], "x") == ({**FULL, "model": "x"}, ())


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("openai", {"top_k", "min_p", "repeat_penalty", "logprobs above 5", CONTEXT}),
        ("together", {"logprobs", CONTEXT}),
        ("fireworks", {"logprobs above 5", CONTEXT}),
        ("openai-compatible", {"top_k", "min_p", "repeat_penalty", "logprobs above 5", CONTEXT}),
    ],
)
def test_raw_prompts(name: str, lost: set[str]) -> None:
    payload, told = adapted(RAW, COMPLETIONS, BY_NAME[name], "m")
    assert set(told) == lost
    assert payload["max_tokens"] == 100
    assert payload.get("logprobs", 5) == 5


def test_only_some_have_raw_prompts_and_not_all_have_embeddings() -> None:
    assert {row.name for row in OTHERS if COMPLETIONS in row.endpoints} == {
        *("openai", "together", "fireworks", "openai-compatible"),
    }
    assert {row.name for row in OTHERS if EMBEDDINGS not in row.endpoints} == {"deepseek"}


@pytest.mark.parametrize("row", [row for row in OTHERS if row.embeddings], ids=lambda row: row.name)
def test_embeddings_are_not_cut_and_come_as_base64_where_that_is_taken(row: Dialect) -> None:
    payload, told = adapted(TEXTS, EMBEDDINGS, row, "m")
    base64 = {"encoding_format": "base64"} if row.name in ("openai", "openrouter", "groq", "mistral") else {}
    assert payload == {"model": "m", "input": ["a"], **base64}
    assert told == ("num_ctx",)


def test_what_asks_for_nothing_is_not_missed() -> None:
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert asked("gemini", **neutral)[1] == ()
    assert adapted({**TEXTS, "truncate_prompt_tokens": -1}, EMBEDDINGS, BY_NAME["openai"], "m")[1] == ()


def test_a_key_that_no_row_knows_is_told() -> None:
    payload, told = asked("openrouter", bad_words=["x"])
    assert "bad_words" not in payload
    assert told == ("bad_words",)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_usage_is_asked_for_in_openais_words_alone(row: Dialect) -> None:
    payload, _ = adapted(FULL, CHAT, row, "m")
    assert payload.get("stream_options", {"include_usage": True}) == {"include_usage": True}


# Names and limits


@pytest.mark.parametrize(
    ("dialect", "key"),
    [("openai", MAX_COMPLETION), ("groq", MAX_COMPLETION), ("openrouter", MAX_COMPLETION), ("mistral", "max_tokens")],
)
def test_the_most_tokens_of_an_answer(dialect: str, key: str) -> None:
    assert asked(dialect, max_tokens=5)[0][key] == 5


def test_a_seed_for_mistral() -> None:
    payload, _ = asked("mistral", seed=5)
    assert payload["random_seed"] == 5
    assert "seed" not in payload


def test_more_than_a_provider_takes_is_held_to_it() -> None:
    payload, told = asked("fireworks", top_k=500, top_logprobs=5)
    assert payload["top_k"] == 100
    assert told == ("top_k above 100",)


@pytest.mark.parametrize("model", ["o3", "gpt-5", "gpt-5.4-mini", "gpt-6-astra"])
def test_a_reasoning_model_of_openais_takes_no_sampling(model: str) -> None:
    payload, told = asked("openai", model, **SAMPLING, logprobs=True)
    assert not payload.keys() & {"temperature", "top_p", "stop", "logprobs", *PENALTIES}
    assert {"temperature", "top_p", "stop", "logprobs"} <= set(told)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "gpt-5.1-chat"])
def test_other_models_of_openais_do(model: str) -> None:
    assert asked("openai", model, temperature=0.8)[0]["temperature"] == 0.8


# Whatever the request is

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
def test_a_request_is_not_changed_and_adapting_it_twice_is_adapting_it_once(
    payload: JsonObject, row: Dialect, model: str
) -> None:
    before = copy.deepcopy(payload)
    once, _ = adapted(payload, CHAT, row, model)
    assert payload == before
    twice, told = adapted(once, CHAT, row, model)
    assert twice == once
    assert row.everything or not set(told) - {SCHEMA_ASKED}


@given(PAYLOADS, st.sampled_from(OTHERS), MODELS)
def test_nothing_of_vllms_own_leaves_for_a_provider(payload: JsonObject, row: Dialect, model: str) -> None:
    sent, _ = adapted(payload, CHAT, row, model)
    assert not sent.keys() & VLLM_ONLY
    assert "continuous_usage_stats" not in sent.get("stream_options", {})


@given(PAYLOADS, st.sampled_from(OTHERS), MODELS)
def test_what_is_not_sent_is_told(payload: JsonObject, row: Dialect, model: str) -> None:
    sent, told = adapted(payload, CHAT, row, model)
    for key, name in (("seed", "seed"), ("min_p", "min_p"), ("repetition_penalty", "repeat_penalty")):
        if key in payload and not sent.keys() & {key, "random_seed" if key == "seed" else key}:
            assert name in told
