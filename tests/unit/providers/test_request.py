"""Conversion of a payload for a provider: thinking, messages, formats, and the choice of the dialect."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from ollama_compat.mapping.model_families import FAMILIES, UNKNOWN
from ollama_compat.providers.dialects import CHAT, Dialect, dialect_of
from ollama_compat.providers.request import (
    _SWITCHES,
    SCHEMA_IN_PROMPT,
    SCHEMA_NOT_ENFORCED,
    THINKING_HISTORY,
    converted,
)
from ollama_compat.settings import Provider
from ollama_compat.steps import JsonObject
from tests.payloads import FULL, HISTORY, OTHERS, SCHEMA, as_format, convert_chat

# Thinking

ENABLED, DISABLED = {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("dialect", "model", "think", "fields"),
    [
        ("deepseek", "deepseek-v4-flash", True, ENABLED),
        ("deepseek", "deepseek-v4-flash", False, DISABLED),
        ("deepseek", "deepseek-v4-flash", "low", {**ENABLED, "reasoning_effort": "low"}),
        ("deepseek", "deepseek-v4-flash", "max", {**ENABLED, "reasoning_effort": "max"}),
        ("openai", "gpt-5.2", True, {"reasoning_effort": "medium"}),
        ("openai", "gpt-5.2", False, {"reasoning_effort": "none"}),
        ("openai", "gpt-5-mini", False, {"reasoning_effort": "minimal"}),
        ("openai", "o3", False, {"reasoning_effort": "low"}),
        ("openrouter", "any/model", "high", {"reasoning_effort": "high"}),
        ("openrouter", "any/model", False, {"reasoning_effort": "none"}),
        ("groq", "qwen/qwen3-32b", True, {"reasoning_effort": "default", "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3-32b", "high", {"reasoning_effort": "default", "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3.8", "low", {"reasoning_effort": "low", "reasoning_format": "parsed"}),
        ("groq", "openai/gpt-oss-20b", True, {}),
        ("groq", "openai/gpt-oss-20b", "max", {"reasoning_effort": "high"}),
        ("together", "Qwen/Qwen3.5-9B", False, {"reasoning": {"enabled": False}}),
        ("fireworks", "accounts/fireworks/models/deepseek-v3p1", True, {"reasoning_effort": "medium"}),
        ("mistral", "mistral-medium-3-5", "low", {"reasoning_effort": "high"}),
        ("mistral", "magistral-medium-latest", "high", {}),
        ("gemini", "gemini-2.5-flash", False, {"reasoning_effort": "none"}),
        ("gemini", "gemini-3-pro", False, {"reasoning_effort": "low"}),
    ],
)
def test_think_becomes_the_fields_of_the_provider_and_model(
    dialect: str, model: str, think: bool | str, fields: JsonObject
) -> None:
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    payload, reported = convert_chat(dialect, model, chat_template_kwargs={"enable_thinking": bool(think)}, **level)
    keys = ("thinking", "reasoning", "reasoning_effort", "reasoning_format")
    assert {key: payload[key] for key in keys if key in payload} == fields
    assert reported == ()


@pytest.mark.parametrize(
    ("dialect", "model", "think"),
    [
        ("groq", "llama-3.3-70b-versatile", False),
        ("openai", "gpt-4o", True),
        ("openai-compatible", "qwen3", True),
        ("fireworks", "minimax-m2", False),
        ("mistral", "magistral-small-latest", False),
    ],
)
def test_think_is_removed_and_reported_for_a_model_without_switch(dialect: str, model: str, think: bool) -> None:
    payload, reported = convert_chat(dialect, model, chat_template_kwargs={"thinking": think})
    assert not payload.keys() & {"thinking", "reasoning", "reasoning_effort", "chat_template_kwargs"}
    assert reported == ("think",)


def test_think_level_is_sent_without_a_template_argument() -> None:
    assert convert_chat("groq", "gpt-oss-120b", reasoning_effort="low")[0]["reasoning_effort"] == "low"


def test_other_template_arguments_are_reported() -> None:
    assert convert_chat("openrouter", chat_template_kwargs={"custom": 1})[1] == ("chat_template_kwargs",)


def test_switches_are_those_of_the_model_families() -> None:
    assert {row.thinking.switch for row in FAMILIES if row.thinking is not None and row.thinking.switch} | {
        UNKNOWN.switch
    } == _SWITCHES


def test_deepseek_thinking_is_disabled_when_tool_calls_lack_thinking() -> None:
    without_thinking = [{key: value for key, value in message.items() if key != "reasoning"} for message in HISTORY]
    payload, reported = convert_chat("deepseek", messages=without_thinking)
    assert (payload["thinking"], reported) == ({"type": "disabled"}, ())
    payload, reported = convert_chat("deepseek", messages=without_thinking, chat_template_kwargs={"thinking": True})
    assert (payload["thinking"], reported) == ({"type": "disabled"}, ("think",))
    payload, reported = convert_chat("deepseek", messages=HISTORY, chat_template_kwargs={"thinking": True})
    assert (payload["thinking"], reported) == ({"type": "enabled"}, ())


# Messages


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        ("deepseek", "reasoning_content"),
        ("fireworks", "reasoning_content"),
        ("openrouter", "reasoning"),
        ("groq", "reasoning"),
        ("together", "reasoning"),
        ("openai", None),
        ("mistral", None),
        ("gemini", None),
        ("openai-compatible", None),
    ],
)
def test_earlier_thinking_goes_into_the_providers_field(dialect: str, field: str | None) -> None:
    payload, reported = convert_chat(dialect, messages=HISTORY)
    thinking = {key: value for key, value in payload["messages"][2].items() if key.startswith("reasoning")}
    assert thinking == ({field: "I should look."} if field else {})
    assert (THINKING_HISTORY in reported) is (field is None)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_tool_result_has_its_name_only_for_providers_that_accept_it(row: Dialect) -> None:
    payload, _ = converted(FULL, CHAT, row, "m")
    result = next(message for message in payload["messages"] if message["role"] == "tool")
    assert ("name" in result) is (row.name in ("mistral", "gemini"))


def test_mistral_gets_equal_nine_character_ids_for_a_call_and_its_result() -> None:
    messages = convert_chat("mistral", messages=HISTORY)[0]["messages"]
    call_id = messages[2]["tool_calls"][0]["id"]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert messages[3]["tool_call_id"] == call_id
    kept = [{"role": "tool", "content": "", "tool_call_id": "aB3456789"}]
    assert convert_chat("mistral", messages=kept)[0]["messages"] == kept


@pytest.mark.parametrize(
    ("dialect", "model", "signed"),
    [("gemini", "gemini-3-flash", True), ("gemini", "gemini-2.5-flash", False), ("openai", "gemini-3-flash", False)],
)
def test_gemini_3_tool_calls_skip_the_signature_check(dialect: str, model: str, signed: bool) -> None:
    messages = convert_chat(dialect, model, messages=HISTORY)[0]["messages"]
    extras = [call.get("extra_content") for message in messages for call in message.get("tool_calls", ())]
    assert extras
    skipped = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert all(extra == (skipped if signed else None) for extra in extras)


def test_mistral_continues_the_last_message() -> None:
    payload, reported = convert_chat("mistral", messages=HISTORY[-1:], continue_final_message=True)
    assert payload["messages"] == [{"role": "assistant", "content": "It", "prefix": True}]
    assert reported == ()


# Formats


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_json_format_is_requested_and_mentioned_in_the_prompt(row: Dialect) -> None:
    payload, reported = converted(
        {"messages": [{"role": "user", "content": "Hi"}], "response_format": as_format({"type": "object"})},
        CHAT,
        row,
        "m",
    )
    assert payload["response_format"] == {"type": "json_object"}
    assert payload["messages"][0]["role"] == "system"
    assert "JSON" in payload["messages"][0]["content"]
    assert reported == ()


def test_json_format_adds_no_instruction_when_the_prompt_mentions_json() -> None:
    messages = [{"role": "user", "content": "As Json, please"}]
    assert (
        convert_chat("openai", messages=messages, response_format=as_format({"type": "object"}))[0]["messages"]
        == messages
    )


@pytest.mark.parametrize(("dialect", "lost"), [("together", ()), ("openai", (SCHEMA_NOT_ENFORCED,))])
def test_schema_is_sent_to_providers_that_accept_it(dialect: str, lost: tuple[str, ...]) -> None:
    payload, reported = convert_chat(dialect, response_format=as_format(SCHEMA))
    assert payload["response_format"] == as_format(SCHEMA)
    assert reported == lost


def test_schema_goes_into_the_system_prompt_for_providers_that_accept_none() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    payload, reported = convert_chat("deepseek", messages=messages, response_format=as_format(SCHEMA))
    assert payload["response_format"] == {"type": "json_object"}
    system = payload["messages"][0]["content"]
    assert system.startswith("Be brief.\n\n")
    assert json.dumps(SCHEMA) in system
    assert len(payload["messages"]) == 2
    assert reported == (SCHEMA_IN_PROMPT,)


# The dialect of a provider


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "openai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://notopenrouter.ai/v1", "openai-compatible"),
        ("http://gateway:8000", "openai-compatible"),
    ],
)
def test_dialect_follows_the_host(url: str, name: str) -> None:
    assert dialect_of(url).name == name


def test_dialect_of_the_settings_overrides_the_host() -> None:
    assert dialect_of("https://api.openai.com", "vllm").name == "vllm"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dialect": "klingon"}, "unknown dialect 'klingon'; allowed: deepseek, openai"),
        ({"base_url": "https://me:secret@x.example"}, "name the key's variable in api_key_env"),
        ({"base_url": "ftp://x.example"}, "not an http or https URL"),
        ({"api_key_env": "sk-secret"}, "the NAME of an environment variable"),
    ],
)
def test_invalid_provider_settings_are_rejected(fields: JsonObject, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Provider.model_validate({"base_url": "https://x.example", **fields})
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
