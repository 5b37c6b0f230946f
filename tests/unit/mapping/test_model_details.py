"""Details of a model from its name."""

from __future__ import annotations

import pytest

from ollama_compat.mapping.model_details import details


@pytest.mark.parametrize(
    ("served", "root", "family", "size", "quantisation"),
    [
        ("LGAI-EXAONE/EXAONE-4.0-32B-AWQ", None, "exaone", "32B", "AWQ"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", None, "qwen", "30B", "FP8"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, "smollm", "135M", ""),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", None, "mixtral", "8X7B", ""),
        ("Llama-3.2-3B-Instruct-Q4_K_M", None, "llama", "3B", "Q4_K_M"),
        ("RedHatAI/Qwen2.5-7B-quantized.w8a8", None, "qwen", "7B", "W8A8"),
        ("nlpai-lab/KURE-v1", None, "", "", ""),
        ("openai/gpt-oss-20b", None, "gptoss", "20B", ""),
        ("assistant", "/models/Qwen3-8B-AWQ/", "qwen", "8B", "AWQ"),
        ("assistant", None, "", "", ""),
    ],
)
def test_details_have_family_size_and_quantisation_of_the_name(
    served: str, root: str | None, family: str, size: str, quantisation: str
) -> None:
    assert details(served, root) == {
        "parent_model": root or served,
        "format": "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": size,
        "quantization_level": quantisation,
    }
