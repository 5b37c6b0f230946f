"""The table of model families: thinking, fill in the middle, parsers."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat.mapping.model_families import (
    THINK_TAGS,
    ThinkingStyle,
    fill,
    infill_of,
    thinking_fields,
    thinking_style,
    tool_parser_of,
)

# Thinking


@pytest.mark.parametrize(
    ("served", "style"),
    [
        ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", ThinkingStyle(False, "enable_thinking")),
        ("LGAI-EXAONE/EXAONE-4.0-1.2B", ThinkingStyle(False, "enable_thinking")),
        ("Qwen/Qwen3-8B", ThinkingStyle(True, "enable_thinking")),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", ThinkingStyle(False)),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", ThinkingStyle(True)),
        ("Qwen/QwQ-32B", ThinkingStyle(True)),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", ThinkingStyle(True)),
        ("deepseek-ai/DeepSeek-V3.1", ThinkingStyle(True, "thinking")),
        ("openai/gpt-oss-20b", ThinkingStyle(True, None, levels=True)),
        ("ibm-granite/granite-3.3-8b-instruct", ThinkingStyle(True, "thinking")),
        ("zai-org/GLM-4.5-Air", ThinkingStyle(True, "enable_thinking")),
        ("mistralai/Magistral-Small-2506", ThinkingStyle(True, tags=("[THINK]", "[/THINK]"))),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("meta-llama/Llama-3.1-8B-Instruct", None),
        ("LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", None),
        ("deepseek-ai/DeepSeek-V3", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
    ],
)
def test_thinking_style_follows_served_name(served: str, style: ThinkingStyle | None) -> None:
    assert thinking_style(served, None) == style


def test_thinking_style_of_renamed_model_follows_root() -> None:
    assert thinking_style("assistant", "/models/Qwen3-8B") == ThinkingStyle(True, "enable_thinking")


@pytest.mark.parametrize(
    ("profile", "style"),
    [
        ({"default": False}, ThinkingStyle(False, "enable_thinking")),
        ({"switch": "think"}, ThinkingStyle(True, "think")),
        ({"tags": ("<t>", "</t>")}, ThinkingStyle(True, "enable_thinking", tags=("<t>", "</t>"))),
    ],
)
def test_thinking_style_of_profile_overrides_family(profile: dict[str, Any], style: ThinkingStyle) -> None:
    assert thinking_style("Qwen3-8B", None, **profile) == style


def test_thinking_style_of_profile_applies_without_family() -> None:
    assert thinking_style("smol", None, default=True) == ThinkingStyle(True)


@pytest.mark.parametrize(
    ("style", "think", "payload"),
    [
        (ThinkingStyle(True, "enable_thinking"), None, {"chat_template_kwargs": {"enable_thinking": True}}),
        (ThinkingStyle(False, "enable_thinking"), None, {"chat_template_kwargs": {"enable_thinking": False}}),
        (ThinkingStyle(False, "enable_thinking"), True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (ThinkingStyle(True, "thinking"), False, {"chat_template_kwargs": {"thinking": False}}),
        (ThinkingStyle(None, "enable_thinking"), None, {}),
        (ThinkingStyle(True), True, {}),
        (ThinkingStyle(True), False, {}),
        (
            ThinkingStyle(True, "enable_thinking"),
            "low",
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"},
        ),
        (ThinkingStyle(True, levels=True), "high", {"reasoning_effort": "high"}),
        (ThinkingStyle(True, levels=True), "max", {"reasoning_effort": "high"}),
        (ThinkingStyle(True, levels=True), True, {}),
        (ThinkingStyle(True, levels=True), False, {"reasoning_effort": "low"}),
    ],
)
def test_thinking_fields_follow_style_and_think(
    style: ThinkingStyle, think: bool | str | None, payload: dict[str, Any]
) -> None:
    assert thinking_fields(style, think) == payload


@pytest.mark.parametrize(
    ("served", "default", "switch", "tags"),
    [
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", True, None, THINK_TAGS),
        ("LGAI-EXAONE/EXAONE-Deep-7.8B", True, None, ("<thought>", "</thought>")),
        ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", False, "enable_thinking", THINK_TAGS),
        ("Qwen/Qwen3-8B", True, "enable_thinking", THINK_TAGS),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", False, None, THINK_TAGS),
    ],
)
def test_most_specific_family_applies(served: str, default: bool, switch: str | None, tags: tuple[str, str]) -> None:
    style = thinking_style(served, None)
    assert style is not None
    assert (style.default, style.switch, style.tags) == (default, switch, tags)


# Fill in the middle


@pytest.mark.parametrize(
    ("served", "prompt"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>"),
        ("bigcode/starcoder2-3b", "<fim_prefix>A<fim_suffix>B<fim_middle>"),
        ("ibm-granite/granite-3b-code-base", "<fim_prefix>A<fim_suffix>B<fim_middle>"),
        ("ibm-granite/granite-4.0-h-small", "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>"),
        ("codellama/CodeLlama-7b-hf", "<PRE> A <SUF>B <MID>"),
        ("deepseek-ai/deepseek-coder-6.7b-base", "<｜fim▁begin｜>A<｜fim▁hole｜>B<｜fim▁end｜>"),
        ("mistralai/Codestral-22B-v0.1", "[SUFFIX]B[PREFIX] A"),
    ],
)
def test_infill_prompt_follows_served_name(served: str, prompt: str) -> None:
    infill = infill_of(served, None)
    assert infill is not None
    assert fill(infill.prompt, "A", "B") == prompt


@pytest.mark.parametrize(
    "served", ["smol", "Qwen/Qwen3-8B", "LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "granite-3.3-8b-instruct"]
)
def test_infill_is_none_for_other_models(served: str) -> None:
    assert infill_of(served, None) is None


def test_infill_of_a_renamed_model_follows_its_root() -> None:
    assert infill_of("coder", "/models/Qwen2.5-Coder-7B") is not None


def test_fill_keeps_braces_of_texts() -> None:
    assert fill("<{prefix}|{suffix}>", "{suffix} {x} \\1", "{prefix}") == "<{suffix} {x} \\1|{prefix}>"


# Parsers


@pytest.mark.parametrize(
    ("served", "parser"),
    [
        ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "hermes"),
        ("Qwen/Qwen3-8B", "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder"),
        ("openai/gpt-oss-20b", "openai"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
    ],
)
def test_tool_parser_follows_family(served: str, parser: str | None) -> None:
    assert tool_parser_of(served, None) == parser
