"""What is checked when a client is made: what stands in exists, and keys can be sent."""

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


def test_a_missing_key_is_told() -> None:
    said = refusal(settings("deepseek:deepseek-chat"), DEEPSEEK_API_KEY=" ")
    assert "'deepseek:deepseek-chat' stand in for 'smol'" in said
    assert "set DEEPSEEK_API_KEY" in said


def test_a_key_is_enough() -> None:
    check(settings("deepseek:deepseek-chat"), {}, KEYS)


@pytest.mark.parametrize("key", UNSENDABLE)
def test_a_key_that_no_header_can_carry_is_told_by_its_variable(key: str) -> None:
    said = refusal(settings("deepseek:deepseek-chat"), DEEPSEEK_API_KEY=key)
    assert "DEEPSEEK_API_KEY holds a key with characters that no HTTP header can carry" in said


def test_blanks_and_line_ends_around_a_key_are_no_part_of_it() -> None:
    check(settings("deepseek:deepseek-chat"), {}, {"DEEPSEEK_API_KEY": " sk-1\r\n"})


@pytest.mark.parametrize("key", UNSENDABLE)
@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
def test_a_header_that_can_not_be_sent_is_told_by_its_name(name: str, key: str) -> None:
    said = refusal(settings(), {name: f"Bearer {key}"})
    assert f"the header '{name}' given to the client has characters that no HTTP header can carry" in said


def test_headers_that_can_be_sent_are_not_touched() -> None:
    check(settings(), {"Authorization": "Bearer sk-1", "X-Team": "a\tb c", "X-None": None}, {})


@pytest.mark.parametrize("kind", [ollama.Client, ollama.AsyncClient])
def test_a_client_is_not_made_of_what_can_not_be_sent(kind: Any) -> None:
    with pytest.raises(SettingsError, match="the header 'Authorization'"):
        kind(backend_mode="vllm", headers={"Authorization": "Bearer sk-top\nsecret"})


# Providers


@pytest.mark.parametrize(
    ("other", "meant"),
    [
        ("deepsek:deepseek-chat", "deepseek"),
        ("deepseeek:deepseek-chat", "deepseek"),
        ("Deepseek:deepseek-chat", "deepseek"),
        ("depseek:deepseek-chat", "deepseek"),
        ("mycluod:big", "mycloud"),
        ("olama:qwen3", "ollama"),
    ],
)
def test_a_misspelt_provider_is_told_with_the_one_that_was_meant(other: str, meant: str) -> None:
    said = refusal(settings(other, providers=MYCLOUD))
    word = other.partition(":")[0]
    assert f"there is no provider '{word}': did you mean '{meant}'?" in said
    assert f"{other!r} stand in for 'smol'" in said


@pytest.mark.parametrize("other", ["openai:gpt-4o", "groq:llama-3.3-70b-versatile", "mistral:mistral-large-latest"])
def test_a_provider_without_a_table_is_told(other: str) -> None:
    word = other.partition(":")[0]
    assert f"there is no provider '{word}': give it a table [providers.{word}]" in refusal(settings(other))


@pytest.mark.parametrize(
    "other",
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
def test_any_other_name_is_a_models(other: str) -> None:
    check(settings(other, providers=MYCLOUD), {}, KEYS)


@pytest.mark.parametrize(
    "known",
    [
        {"vllm_model_map": {"openai:large": "openai/gpt-oss-120b"}},
        {"vllm_model_map": {"big": "openai:large"}},
        {"models": {"openai:large": {}}},
    ],
)
def test_a_model_that_the_settings_name_is_no_misspelt_provider(known: dict[str, Any]) -> None:
    check(settings("openai:large", **known), {}, {})
