"""Checks at the creation of a client: fallbacks exist, and their keys can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import ollama_compat as ollama
from ollama_compat import Settings, SettingsError
from ollama_compat.settings_checks import check

KEYS = {"DEEPSEEK_API_KEY": "sk-1", "MYCLOUD_KEY": "sk-2"}
MYCLOUD = {"mycloud": {"base_url": "https://api.mycloud.example", "api_key_env": "MYCLOUD_KEY"}}
UNSENDABLE = ("sk-top\nsecret", "sk-top\r\nsecret", "sk-topésecret", "sk-top\x00secret", "sk-top\u2028secret")


def settings(*chain: str, **more: Any) -> Settings:
    return Settings(backend_mode="vllm", vllm_failover={"smol": chain}, **more)


def refusal(made: Settings, headers: Mapping[str, object] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        check(made, headers or {}, {**KEYS, **environ})
    shown = f"{caught.value} {caught.value!r}"
    assert "secret" not in shown
    return shown


# Keys


def test_check_rejects_missing_key() -> None:
    text = refusal(settings("deepseek:deepseek-chat"), DEEPSEEK_API_KEY=" ")
    assert "the fallback 'deepseek:deepseek-chat' for 'smol'" in text
    assert "set DEEPSEEK_API_KEY" in text


def test_check_accepts_key() -> None:
    check(settings("deepseek:deepseek-chat"), {}, KEYS)


@pytest.mark.parametrize("key", UNSENDABLE)
def test_check_names_variable_when_key_is_unsendable(key: str) -> None:
    text = refusal(settings("deepseek:deepseek-chat"), DEEPSEEK_API_KEY=key)
    assert "the key in DEEPSEEK_API_KEY contains characters that an HTTP header cannot carry" in text


def test_check_ignores_whitespace_around_key() -> None:
    check(settings("deepseek:deepseek-chat"), {}, {"DEEPSEEK_API_KEY": " sk-1\r\n"})


@pytest.mark.parametrize("key", UNSENDABLE)
@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
def test_check_names_header_when_it_is_unsendable(name: str, key: str) -> None:
    text = refusal(settings(), {name: f"Bearer {key}"})
    assert f"the header '{name}' given to the client contains characters that an HTTP header cannot carry" in text


def test_check_accepts_sendable_headers() -> None:
    check(settings(), {"Authorization": "Bearer sk-1", "X-Team": "a\tb c", "X-None": None}, {})


@pytest.mark.parametrize("kind", [ollama.Client, ollama.AsyncClient])
def test_client_rejects_unsendable_header(kind: Any) -> None:
    with pytest.raises(SettingsError, match="the header 'Authorization'"):
        kind(backend_mode="vllm", headers={"Authorization": "Bearer sk-top\nsecret"})


# Providers


@pytest.mark.parametrize(
    ("fallback", "meant"),
    [
        ("deepsek:deepseek-chat", "deepseek"),
        ("deepseeek:deepseek-chat", "deepseek"),
        ("Deepseek:deepseek-chat", "deepseek"),
        ("depseek:deepseek-chat", "deepseek"),
        ("mycluod:big", "mycloud"),
        ("olama:qwen3", "ollama"),
    ],
)
def test_check_suggests_provider_when_name_is_misspelled(fallback: str, meant: str) -> None:
    text = refusal(settings(fallback, providers=MYCLOUD))
    word = fallback.partition(":")[0]
    assert f"there is no provider '{word}'. Did you mean '{meant}'?" in text
    assert f"the fallback {fallback!r} for 'smol'" in text


@pytest.mark.parametrize("fallback", ["openai:gpt-4o", "groq:llama-3.3-70b-versatile", "mistral:mistral-large-latest"])
def test_check_rejects_provider_without_table(fallback: str) -> None:
    word = fallback.partition(":")[0]
    assert f"there is no provider '{word}'. Add a table [providers.{word}]" in refusal(settings(fallback))


@pytest.mark.parametrize(
    "fallback",
    [
        "other",
        "other:instruct",
        "exaone3.5:7.8b",
        "qwen3-coder:30b",
        "deepseek-r1:8b",
        "deepseek-r1:free",
        "deepseek-v3:671b",
        "llama:latest",
        "mistral:7b-instruct",
        "mistral:v0.3",
        "mistral:latest",
        "openai/gpt-oss-20b",
        "gpt-oss:120b-cloud",
        "ollama:qwen3:8b",
        "deepseek:deepseek-chat",
        "mycloud:big",
    ],
)
def test_check_accepts_other_names_as_models(fallback: str) -> None:
    check(settings(fallback, providers=MYCLOUD), {}, KEYS)


@pytest.mark.parametrize(
    "known",
    [
        {"vllm_model_map": {"openai:large": "openai/gpt-oss-120b"}},
        {"vllm_model_map": {"big": "openai:large"}},
        {"models": {"openai:large": {}}},
    ],
)
def test_check_accepts_model_that_settings_name(known: dict[str, Any]) -> None:
    check(settings("openai:large", **known), {}, {})
