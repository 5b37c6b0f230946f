"""The arithmetic of the plan: packed weights, blocks of the KV cache, overhead, shares of GPUs.

tests/launch/test_plan.py holds the same functions against vLLM; here are the cases that it can't make.
"""

from __future__ import annotations

from typing import Any

import pytest

from vllm_launch import Server
from vllm_launch.plan import architecture, known, named, quantization
from vllm_launch.plan.architecture import Linear
from vllm_launch.plan.kv_cache import Cut, Layout, layout
from vllm_launch.plan.options import resolve
from vllm_launch.plan.overhead import NON_TORCH, NON_TORCH_PARALLEL, Batch, overhead
from vllm_launch.plan.weights import Part, Weights, computed, latent_copies, scaled, stage_layers
from vllm_launch.presets import EXAONE, KURE
from vllm_launch.runtimes.base import LaunchError

EXAONE_SHAPE = architecture.read(known.CONFIGS[EXAONE], EXAONE)
KURE_SHAPE = architecture.read(known.CONFIGS[KURE], KURE)
SQUARE = Linear("self_attn.q_proj", 1024, 2048)
NUMBERS = 1024 * 2048


# --- quantization


@pytest.mark.parametrize(
    ("config", "size"),
    [
        # 4 bits, for each 128 inputs a scale of 2 bytes and a zero point of 4 bits.
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, NUMBERS // 2 + NUMBERS // 128 * 2.5),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, NUMBERS // 2 + NUMBERS // 32 * 2.5),
        # With an order of groups: 4 bytes for each input.
        ({"quant_method": "gptq", "group_size": 128, "desc_act": True}, NUMBERS // 2 + NUMBERS // 128 * 2.5 + 4 * 1024),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, NUMBERS + 2048 * 3),
        # One scale, or one for each block of 128 by 128.
        ({"quant_method": "fp8"}, NUMBERS + 4),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, NUMBERS + 8 * 16 * 4),
        # NF4: 4 bytes for 64 numbers.
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, NUMBERS // 2 + NUMBERS // 64 * 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, NUMBERS + 2048 * 4),
        ({"quant_method": "modelopt_fp4"}, NUMBERS // 2 + NUMBERS // 16),
    ],
)
def test_packed_matrix_includes_scales_and_zero_points(config: dict[str, Any], size: float) -> None:
    packing = quantization.read(config)
    assert packing is not None
    assert packing.bytes(SQUARE) == size


@pytest.mark.parametrize(
    ("weights", "size"),
    [
        ({"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True}, NUMBERS // 2 + NUMBERS // 128 * 2),
        ({"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": False}, NUMBERS // 2 + NUMBERS / 51.2),
        ({"num_bits": 8, "strategy": "channel", "type": "float"}, NUMBERS + 2048 * 4),
        ({"num_bits": 8, "strategy": "tensor", "type": "float"}, NUMBERS + 4),
    ],
)
def test_compressed_tensors_strategies_set_the_scales(weights: dict[str, Any], size: float) -> None:
    packing = quantization.read(
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    )
    assert packing is not None
    assert packing.bytes(SQUARE) == int(size)


def test_excluded_matrices_are_not_packed() -> None:
    packing = quantization.read({"quant_method": "awq", "modules_to_not_convert": ["self_attn", "re:.*down_proj$"]})
    assert packing is not None
    assert not packing.packs("self_attn.q_proj")
    assert not packing.packs("mlp.down_proj")
    assert packing.packs("mlp.up_proj")


def test_routers_are_not_packed_and_mxfp4_packs_only_experts() -> None:
    awq, mxfp4 = quantization.read({"quant_method": "awq"}), quantization.read({"quant_method": "mxfp4"})
    assert awq is not None
    assert mxfp4 is not None
    assert not awq.packs("mlp.gate")
    assert mxfp4.packs("mlp.experts.up_proj")
    assert not mxfp4.packs("self_attn.q_proj")


def test_online_quantization_is_supported() -> None:
    packing = quantization.read(None, "fp8")
    assert packing is not None
    assert packing.bits == 8
    assert quantization.read(None, None) is None


def test_unknown_method_is_reported_as_unknown() -> None:
    assert quantization.read({"quant_method": "aqlm"}) is None
    assert not quantization.known({"quant_method": "aqlm"})
    assert quantization.known({"quant_method": "awq_marlin"})
    assert quantization.known(None)


# --- weights


def test_exaone_matrices_have_the_parameters_of_its_card() -> None:
    parameters = sum(linear.inputs * linear.outputs for layer in range(64) for linear in EXAONE_SHAPE.linears(layer))
    assert parameters == pytest.approx(30.95e9, rel=0.001)  # the card: 30.95 B without embeddings


def test_exaone_awq_weights_are_4_bits_except_embeddings_head_and_norms() -> None:
    weights = computed(EXAONE_SHAPE, 2, quantization.read(EXAONE_SHAPE.quantization))
    assert weights.embedding.split == weights.head.split == 102400 * 5120 * 2
    assert weights.total == 18_180_057_088  # vLLM's own parameters for this config.json


def test_kure_weights_have_no_output_matrix() -> None:
    weights = computed(KURE_SHAPE, 2, None)
    assert weights.head == Part()
    assert weights.total == pytest.approx(1_133_760_512, rel=0.001)


def test_tensor_parallelism_splits_matrices_and_repeats_norms() -> None:
    weights = Weights((Part(100, 10),), Part(40), Part(40), Part(0, 6), "config")
    assert weights.on_gpu(1, 1) == 196
    assert weights.on_gpu(2, 1) == 50 + 10 + 20 + 20 + 6
    assert weights.on_gpu(4, 1) == 25 + 10 + 10 + 10 + 6


def test_fullest_gpu_of_a_pipeline_counts() -> None:
    layer = Part(100)
    weights = Weights((layer,) * 4, Part(50), Part(70), Part(), "config")
    assert weights.on_gpu(1, 2) == 2 * 100 + 70
    tied = Weights((layer,) * 4, Part(50), Part(), Part(), "config")
    assert tied.on_gpu(1, 2) == 2 * 100 + 50


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"), [(64, 2, [32, 32]), (5, 2, [3, 2]), (13, 3, [4, 5, 4]), (62, 4, [15, 16, 16, 15])]
)
def test_layers_are_assigned_to_stages_like_vllm(layers: int, stages: int, sizes: list[int]) -> None:
    bounds = [stage_layers(layers, stage, stages) for stage in range(stages)]
    assert [end - first for first, end in bounds] == sizes
    assert bounds[0][0] == 0
    assert bounds[-1][1] == layers


def test_few_key_value_heads_are_copied_to_many_gpus() -> None:
    shape = architecture.read({**known.CONFIGS[EXAONE], "num_key_value_heads": 2}, "m")
    assert computed(shape, 2, None, kv_copies=4).total > computed(shape, 2, None).total


def test_index_total_scales_the_computed_weights() -> None:
    weights = computed(KURE_SHAPE, 2, None)
    halved = scaled(weights, weights.total // 2)
    assert halved.total == pytest.approx(weights.total / 2, rel=0.001)
    assert halved.source == "index"


def test_latent_attention_stores_a_matrix_twice() -> None:
    config = {
        **known.CONFIGS[EXAONE],
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
    }
    shape = architecture.read(config, "m")
    assert shape.head_size == 576
    assert latent_copies(shape, 2) == 64 * 512 * 40 * 256 * 2
    assert latent_copies(EXAONE_SHAPE, 2) == 0


# --- KV cache


def exaone(**changes: Any) -> Layout:
    cache = layout(EXAONE_SHAPE, Cut(**{"dtype": "bfloat16", "block": 16, "in_flight": 4096, **changes}))
    assert cache is not None
    return cache


def test_exaone_has_three_window_groups_and_one_global_group() -> None:
    cache = exaone()
    assert sorted(cache.groups) == [("full", 16), *[("sliding", 16)] * 3]
    assert cache.token_bytes == 2 * 8 * 128 * 2
    assert cache.block_bytes == 16 * 16 * 4096


def test_sliding_layers_stop_growing_and_global_layers_do_not() -> None:
    cache = exaone()
    assert cache.blocks(32768) == 2048 + 3 * ((4095 + 4096 + 15) // 16 + 1)
    assert cache.blocks(65536) - cache.blocks(32768) == 2048


def test_sliding_layers_keep_all_tokens_without_the_hybrid_manager() -> None:
    assert exaone(hybrid=False).request_bytes(32768) == 32768 * 64 * 4096


def test_fp8_halves_the_cache_and_two_gpus_split_it() -> None:
    assert exaone(dtype="fp8").block_bytes * 2 == exaone().block_bytes
    assert exaone(tensor_parallel=2).block_bytes * 2 == exaone().block_bytes
    assert exaone(tensor_parallel=8).token_bytes == exaone(tensor_parallel=16).token_bytes


def test_unknown_cache_type_is_rejected() -> None:
    with pytest.raises(LaunchError, match=r"does not support a KV cache of type 'turboquant_4bit_nc'"):
        exaone(dtype="turboquant_4bit_nc")


def test_longest_request_needs_one_extra_block() -> None:
    cache = exaone()
    assert cache.longest(cache.least(10000), 131072) == 10000
    assert cache.longest(cache.least(10000) - 1, 131072) == 9984
    assert cache.longest(cache.block_bytes, 131072) == 0


# --- overhead, options


def test_activation_is_the_maximum_of_sampler_and_layers() -> None:
    many = overhead(EXAONE_SHAPE, Batch(2048, 1024, 2, eager=False, pooling=False))
    few = overhead(EXAONE_SHAPE, Batch(2048, 16, 2, eager=False, pooling=False))
    assert many.activation == 40 * 1024 * 102400
    assert few.activation < many.activation
    assert few.activation == 2048 * 2 * (4 * 5120 + 3 * 27392 + 5120 + 2 * 1024)


def test_enforce_eager_needs_no_cuda_graphs() -> None:
    assert overhead(EXAONE_SHAPE, Batch(2048, 16, 2, eager=True, pooling=False)).cuda_graphs == 0
    assert overhead(EXAONE_SHAPE, Batch(2048, 16, 2, eager=False, pooling=False)).cuda_graphs > 0


def test_several_gpus_need_communication_buffers() -> None:
    assert overhead(EXAONE_SHAPE, Batch(1, 1, 2, eager=True, pooling=False)).non_torch == NON_TORCH
    parallel = Batch(1, 1, 2, eager=True, pooling=False, tensor_parallel=2)
    assert overhead(EXAONE_SHAPE, parallel).non_torch == NON_TORCH_PARALLEL


def server(**fields: Any) -> Server:
    return Server(**{"name": "s", "model": "m", "port": 1, "gpus": (0,), **fields})


@pytest.mark.parametrize(
    ("gpu", "tokens", "sequences"),
    [("L4", 2048, 256), ("A100-80", 2048, 256), ("H100", 8192, 1024), ("B200", 16384, 1024)],
)
def test_batch_defaults_depend_on_the_gpu(gpu: str, tokens: int, sequences: int) -> None:
    options = resolve(server(), EXAONE_SHAPE, named(gpu), 131072)
    assert (options.max_num_batched_tokens, options.max_num_seqs) == (tokens, sequences)
    assert options.in_flight == 2 * tokens
    assert options.gpu_memory_utilization == 0.92
    assert options.max_model_len == 131072


def test_embedding_model_processes_its_longest_input_in_one_step() -> None:
    options = resolve(server(runner="pooling"), KURE_SHAPE, named("L4"), 8192)
    assert options.max_num_batched_tokens == options.in_flight == 8192
    assert options.dtype == "float16"


def test_extra_arguments_are_resolved() -> None:
    extra = ("--block_size", "32", "--no-async-scheduling", "--disable-hybrid-kv-cache-manager")
    options = resolve(server(extra_args=extra), EXAONE_SHAPE, named("L4"), 131072)
    assert (options.block_size, options.in_flight, options.hybrid) == (32, options.max_num_batched_tokens, False)


def test_extra_argument_that_is_not_a_number_is_rejected() -> None:
    with pytest.raises(LaunchError, match="'s' has --block-size 'large'"):
        resolve(server(extra_args=("--block-size=large",)), EXAONE_SHAPE, named("L4"), 131072)
