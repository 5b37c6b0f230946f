"""Fill in the middle."""

from __future__ import annotations

import pytest

from ollama_compat.mapping.infill import family_of, fill


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
def test_a_served_name_tells_the_familys_prompt(served: str, prompt: str) -> None:
    family = family_of(served, None)
    assert family is not None
    assert fill(family.prompt, "A", "B") == prompt


@pytest.mark.parametrize(
    "served", ["smol", "Qwen/Qwen3-8B", "LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "granite-3.3-8b-instruct"]
)
def test_other_models_have_none(served: str) -> None:
    assert family_of(served, None) is None


def test_the_root_tells_the_family_of_a_renamed_model() -> None:
    assert family_of("coder", "/models/Qwen2.5-Coder-7B") is not None


def test_braces_in_either_text_stay_what_they_are() -> None:
    assert fill("<{prefix}|{suffix}>", "{suffix} {x} \\1", "{prefix}") == "<{suffix} {x} \\1|{prefix}>"
