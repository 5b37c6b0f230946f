"""Thoughts: how each family switches them, and how they are told from the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat import ResponseError, Thinking
from ollama_compat.mapping.model_families import (
    THINK_TAGS,
    ThinkingParser,
    ThinkingStyle,
    check,
    thinking_fields,
    thinking_style,
)

# The table of families


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
def test_a_served_name_tells_its_family(served: str, style: ThinkingStyle | None) -> None:
    assert thinking_style(served, None, Thinking()) == style


def test_the_root_tells_the_family_of_a_renamed_model() -> None:
    assert thinking_style("assistant", "/models/Qwen3-8B", Thinking()) == ThinkingStyle(True, "enable_thinking")


@pytest.mark.parametrize(
    ("profile", "style"),
    [
        ({"default": False}, ThinkingStyle(False, "enable_thinking")),
        ({"switch": "think"}, ThinkingStyle(True, "think")),
        ({"tags": ("<t>", "</t>")}, ThinkingStyle(True, "enable_thinking", tags=("<t>", "</t>"))),
    ],
)
def test_a_profile_goes_over_the_family(profile: dict[str, Any], style: ThinkingStyle) -> None:
    assert thinking_style("Qwen3-8B", None, Thinking(**profile)) == style


def test_a_profile_speaks_for_a_model_that_no_family_speaks_of() -> None:
    assert thinking_style("smol", None, Thinking(default=True)) == ThinkingStyle(True)


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
def test_what_a_request_says_of_thinking(
    style: ThinkingStyle, think: bool | str | None, payload: dict[str, Any]
) -> None:
    assert thinking_fields(style, think) == payload


@pytest.mark.parametrize("think", [None, True, False, "low", "medium", "high", "max"])
def test_what_ollama_takes_for_think(think: Any) -> None:
    check(think)


@pytest.mark.parametrize(
    ("think", "text"),
    [
        ("maybe", 'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)'),
        ("", 'invalid think value: "" (must be "high", "medium", "low", "max", true, or false)'),
        (1.5, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
        ([], 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
    ],
)
def test_what_ollama_refuses_for_think(think: Any, text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        check(think)
    assert (caught.value.error, caught.value.status_code) == (text, 400)


# Thoughts in the text


def told(pieces: list[str], *, opened: bool = False, tags: tuple[str, str] = THINK_TAGS) -> tuple[str, str]:
    """The thoughts and the answer of a text in pieces."""
    splitter = ThinkingParser(tags, opened=opened)
    settled = [*map(splitter.feed, pieces), splitter.finish()]
    return "".join(thought for thought, _ in settled), "".join(answer for _, answer in settled)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Hi", "", "Hi"),
        ("", "", ""),
        ("<think>Two and one.\n</think>\n4", "Two and one.\n", "4"),
        ("\n <think>\n\na</think>\n\nb", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think>\n\n</think>\n\nb", "", "b"),
        ("<think>a", "a", ""),
        ("<think>a</thi", "a</thi", ""),
        ("<thin", "", "<thin"),
        ("<thinking>a", "", "<thinking>a"),
        ("a<think>b</think>c", "", "a<think>b</think>c"),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        ("</think>b", "", "</think>b"),
        ("  Hi", "", "  Hi"),
        ("<think>a</think>  ", "a", ""),
    ],
)
def test_a_text_with_tags(text: str, thought: str, answer: str) -> None:
    assert told([text]) == (thought, answer)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Two and one.\n</think>\n4", "Two and one.\n", "4"),
        ("\nTwo", "Two", ""),
        ("</think>4", "", "4"),
        ("a<think>b</think>c", "a<think>b", "c"),
    ],
)
def test_a_text_that_begins_within_a_thought(text: str, thought: str, answer: str) -> None:
    assert told([text], opened=True) == (thought, answer)


def test_a_family_may_have_tags_of_its_own() -> None:
    assert told(["[THINK]a[/THINK]b"], tags=("[THINK]", "[/THINK]")) == ("a", "b")


def test_an_answer_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS).feed("Hi") == ("", "Hi")


def test_a_thought_is_not_held_back() -> None:
    assert ThinkingParser(THINK_TAGS, opened=True).feed("Well") == ("Well", "")


PIECE = st.sampled_from(
    ["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "한", "<th", "ink>", "</thi", "nk>"]
)


@given(st.lists(PIECE, max_size=10), st.booleans())
@example(["<think>", "\n", "a", "</thi", "nk>", "\n", "b"], False)
def test_a_text_split_in_any_way_is_told_the_same(pieces: list[str], opened: bool) -> None:
    whole = told(["".join(pieces)], opened=opened)
    assert told(pieces, opened=opened) == whole
    assert told(list("".join(pieces)), opened=opened) == whole


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
def test_a_name_is_of_the_family_that_it_is_most_surely_of(
    served: str, default: bool, switch: str | None, tags: tuple[str, str]
) -> None:
    style = thinking_style(served, None, Thinking())
    assert style is not None
    assert (style.default, style.switch, style.tags) == (default, switch, tags)
