"""The configurations of models that a plan knows without their files: the production pair.

Each is the part of the model's published config.json that determines its memory. Sources:
LGAI-EXAONE/EXAONE-4.0-32B: its model card (64 layers, 40 heads, 8 KV heads, vocabulary 102,400, 3 local layers to 1
global, window 4,096, 131,072 tokens) and NVIDIA/TensorRT-LLM, `tests/unittest/_torch/modeling/test_modeling_exaone4.py`
(hidden and inner size). Its AWQ weights: AutoAWQ's format of 4 bits with groups of 128 and zero points, which gives the
18 GB that users report for it. nlpai-lab/KURE-v1: fine-tuned from BAAI/bge-m3, an XLM-RoBERTa large with 8,194
positions; its files hold 32-bit numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..presets import EXAONE, KURE

_EXAONE: Mapping[str, Any] = {
    "architectures": ["Exaone4ForCausalLM"],
    "model_type": "exaone4",
    "dtype": "bfloat16",
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 102400,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "LGAI-EXAONE/EXAONE-4.0-32B": _EXAONE,
    EXAONE: {
        **_EXAONE,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    },
    KURE: {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "dtype": "float32",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 250002,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
    },
}
"""The configurations by the model's id on the hub."""
