"""Compares the GPU memory plan with vLLM's own arithmetic for many models, and with the log of a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed import environment, models, servers
from testbed.paths import TestbedError
from tests.conftest import serving
from vllm_launch import free_ports
from vllm_launch.plan import architecture, known, quantization
from vllm_launch.plan.gpus import GIB, MIB
from vllm_launch.plan.kv_cache import Cut, Layout, layout
from vllm_launch.plan.weights import computed, stage_layers
from vllm_launch.presets import EXAONE, KURE

Answer = Mapping[str, Any]
"""What `vllm_memory.py` prints for a case."""

_SCRIPT = Path(__file__).parent / "vllm_memory.py"

_SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
QWEN3 = {**_SMALL, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": True}
LLAMA = {
    **_SMALL,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": 32}
MISTRAL = {
    **_SMALL,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "num_key_value_heads": 1,
    "sliding_window": 256,
    "tie_word_embeddings": False,
}
GEMMA3 = {
    **_SMALL,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 13,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 32768,
}
QWEN3_MOE = {
    **QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
DEEPSEEK = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}
EXAONE_TINY = {
    **known.CONFIGS["LGAI-EXAONE/EXAONE-4.0-32B"],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
    "sliding_window": 512,
}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "input_activations": None,
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64},
        }
    },
}


@dataclass(frozen=True)
class Case:
    """A model and how it is served. `available`: bytes for the KV cache."""

    config: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    available: int = 64 * MIB
    overlapping: bool = False
    stages: int = 1

    def request(self) -> dict[str, Any]:
        layers = self.config["num_hidden_layers"]
        stages = [stage_layers(layers, stage, self.stages) for stage in range(self.stages)] if self.stages > 1 else []
        return {
            "config": _with_layer_types(self.config),
            "arguments": self.arguments,
            "available": self.available,
            "async": self.overlapping,
            "stages": stages,
        }

    def layout(self, answer: Answer) -> Layout | None:
        """The plan's layout, with the block size and data type that vLLM chose on this machine."""
        steps = 2 if self.overlapping else 1
        cut = Cut(
            dtype=self.arguments.get("kv_cache_dtype", answer["dtype"]),
            block=answer["block_size"],
            in_flight=answer["max_num_batched_tokens"] * steps,
            pipeline_parallel=self.stages,
        )
        return layout(architecture.read(self.config, "the model"), cut)


def _with_layer_types(config: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the layer pattern to a list, because transformers' class for EXAONE accepts only numbers."""
    pattern = config.get("sliding_window_pattern")
    if not isinstance(pattern, str):
        return dict(config)
    kinds = {"L": "sliding_attention", "G": "full_attention"}
    types = [kinds[pattern[layer % len(pattern)]] for layer in range(config["num_hidden_layers"])]
    return {**config, "layer_types": types, "sliding_window_pattern": len(pattern)}


CASES = {
    "one head of keys for each head": Case(QWEN3),
    "grouped heads": Case(LLAMA),
    "grouped heads, small blocks": Case(LLAMA, {"block_size": 32}),
    "biases": Case(QWEN2),
    "32 bits": Case(LLAMA, {"dtype": "float32"}),
    "a cache of 8 bits": Case(QWEN3, {"kv_cache_dtype": "fp8_e5m2"}),
    "one head, windows everywhere": Case(MISTRAL),
    "five windows to a global layer": Case(GEMMA3),
    "five windows to a global layer, short": Case(GEMMA3, {"max_model_len": 2048, "block_size": 64}),
    "three windows to a global layer": Case(EXAONE_TINY, {"max_model_len": 32768}),
    "nearly as many windows as global layers": Case({**GEMMA3, "num_hidden_layers": 5, "sliding_window_pattern": 2}),
    "steps that overlap": Case(EXAONE_TINY, {"max_model_len": 32768}, overlapping=True),
    "large steps": Case(EXAONE_TINY, {"max_model_len": 32768, "max_num_batched_tokens": 8192}, overlapping=True),
    "a pipeline of two": Case(EXAONE_TINY, {"max_model_len": 8192}, stages=2),
    "a pipeline of three": Case(GEMMA3, {"max_model_len": 8192}, stages=3),
    "latent attention": Case(DEEPSEEK),
    "experts": Case(QWEN3_MOE),
    "AWQ": Case({**LLAMA, "quantization_config": AWQ}, {"dtype": "float16"}),
    "GPTQ": Case({**QWEN3, "quantization_config": GPTQ}),
    "compressed-tensors": Case({**QWEN3, "quantization_config": PACKED}),
    "EXAONE 4.0 32B": Case(
        known.CONFIGS["LGAI-EXAONE/EXAONE-4.0-32B"], {"max_model_len": 32768, "block_size": 32}, 18 * GIB
    ),
    "EXAONE 4.0 32B AWQ": Case(known.CONFIGS[EXAONE], {"max_model_len": 32768, "block_size": 32}, 18 * GIB, True),
    "KURE": Case({**known.CONFIGS[KURE], "position_embedding_type": "absolute"}, {"runner": "pooling"}),
    "too little for one request": Case(LLAMA, {"max_model_len": 8192}, 6 * MIB),
    "too little for one request with windows": Case(EXAONE_TINY, {"max_model_len": 32768}, 12 * MIB),
}
REFUSED = [name for name in CASES if name.startswith("too little")]


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    """vLLM's results for all cases, from one process."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: vLLM is not run")
    try:
        python = environment.prepare()
    except TestbedError as error:
        pytest.fail(f"vLLM cannot be installed. {error}", pytrace=False)
    requests = json.dumps([case.request() for case in CASES.values()])
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), str(_SCRIPT)], input=requests, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*REFUSED, "KURE")])
def test_kv_cache_size_matches_vllm(name: str, answers: dict[str, Answer]) -> None:
    case, answer = CASES[name], answers[name]
    cache = case.layout(answer)
    assert cache is not None
    assert len(cache.groups) == answer["groups"]
    assert cache.pool(case.available) == answer["blocks"]
    assert cache.concurrency(case.available, answer["max_model_len"]) == pytest.approx(answer["concurrency"], rel=1e-6)
    assert cache.tokens(case.available, answer["max_model_len"]) == answer["tokens"]


@pytest.mark.parametrize("name", REFUSED)
def test_longest_request_matches_vllm_when_the_cache_is_too_small(name: str, answers: dict[str, Answer]) -> None:
    case, answer = CASES[name], answers[name]
    cache = case.layout(answer)
    assert cache is not None
    estimate = re.search(r"estimated maximum model length is (\d+)", answer["refusal"])
    assert estimate is not None, answer["refusal"]
    assert cache.longest(case.available, case.arguments["max_model_len"]) == int(estimate[1])
    assert cache.least(case.arguments["max_model_len"]) > case.available


def test_embedding_model_has_no_kv_cache(answers: dict[str, Answer]) -> None:
    assert answers["KURE"]["groups"] == 0
    assert CASES["KURE"].layout(answers["KURE"]) is None
    assert answers["KURE"]["dtype"] == "float16"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.stages == 1])
def test_weights_match_vllm(name: str, answers: dict[str, Answer]) -> None:
    shape = architecture.read(CASES[name].config, name)
    size = {"float32": 4}.get(answers[name]["dtype"], 2)
    weights = computed(shape, size, quantization.read(shape.quantization))
    assert weights.total == pytest.approx(answers[name]["weights"], rel=0.005)


def test_plan_matches_the_log_of_a_running_server(pytestconfig: pytest.Config) -> None:
    available = 256 * MIB
    folder = models.path(models.EXAONE4_TINY)
    changes = {
        "name": "plan",
        "model": str(folder),
        "served_model_name": (),
        "max_model_len": 32768,
        "kv_cache_memory_bytes": available,
        "dtype": None,
        "tool_call_parser": None,
        "chat_template": None,
    }
    server = servers.chat(free_ports(1)[0]).model_copy(update=changes)
    with serving(pytestconfig, [server], (models.EXAONE4_TINY,)) as (process,):
        log = process.log_path.read_text()
    logged = re.search(
        r"KV cache size: ([\d,]+) tokens, Maximum concurrency for 32,768 tokens per request: ([\d.]+)x", log
    )
    assert logged is not None
    config = json.loads((folder / "config.json").read_text())
    # On a CPU vLLM uses blocks of 128 tokens and steps of 2,048 tokens that do not overlap.
    cache = layout(architecture.read(config, "it"), Cut("bfloat16", block=128, in_flight=2048))
    assert cache is not None
    assert cache.tokens(available, 32768) == int(logged[1].replace(",", ""))
    assert cache.concurrency(available, 32768) == pytest.approx(float(logged[2]), abs=0.005)
