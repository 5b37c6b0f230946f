"""Estimates the GPU memory of a server besides weights and KV cache, at the upper end of measured values.

vLLM measures these figures by running the model once (`v1/worker/gpu_worker.py`, `determine_available_memory`). Its
code shows which tensors are large, and the logs below show how large. "measured" means: on published GPUs, from the log
line `Actual usage is … GiB for consumed memory (weights + non-torch), … for peak activation, …`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .architecture import Architecture
from .gpus import GIB, MIB

SAMPLING_BYTES = 40
"""Bytes per logit at the sampler's peak. The number of logits: requests in a step times vocabulary.

Measured on an H100 with 1,024 requests: 4.76 GiB (Llama 3.1 8B), 4.84 (Llama 3.3 70B), 5.56 (Qwen3 0.6B), 5.64 (Qwen3
32B), 7.38 (gpt-oss 20B and 120B). That is 38.4 to 39.6 bytes, independent of the model's size
(llm-d/llm-d-benchmark, `config_explorer/empirical-vllm-memory-results.md`). vLLM 0.31 on an A100 with 256 requests:
1.44 GiB, including the estimate of the CUDA graphs (Llama 3.1 8B).
"""
GRAPHS_PER_LAYER = 20 * MIB
"""CUDA graphs. vLLM subtracts its estimate: 0.25 GiB for 32 layers, 1.55 GiB for 64, twice the actual usage."""
NON_TORCH = int(0.3 * GIB)
"""Memory outside PyTorch, on a single GPU: 0.13 to 0.26 GiB measured."""
NON_TORCH_PARALLEL = GIB
"""The same with several GPUs, including the buffers of NCCL and all-reduce: 0.55 to 0.95 GiB measured."""
CONTEXT = int(0.65 * GIB)
"""A server's CUDA context, outside its share: 0.38 to 0.61 GiB are used before vLLM starts to measure."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """The overhead in bytes on each GPU."""

    activation: int
    cuda_graphs: int
    non_torch: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.activation + self.cuda_graphs + self.non_torch


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest step of a server, and the number of GPUs."""

    tokens: int
    sequences: int
    dtype_bytes: int
    eager: bool
    pooling: bool
    tensor_parallel: int = 1
    pipeline_parallel: int = 1


def overhead(shape: Architecture, batch: Batch) -> Overhead:
    """The overhead of the largest step."""
    layers = math.ceil(shape.layers / batch.pipeline_parallel)
    parallel = batch.tensor_parallel * batch.pipeline_parallel > 1
    sampling = 0 if batch.pooling else SAMPLING_BYTES * min(batch.sequences, batch.tokens) * shape.vocabulary
    return Overhead(
        activation=max(_forward(shape, batch), sampling),
        cuda_graphs=0 if batch.eager else layers * GRAPHS_PER_LAYER,
        non_torch=NON_TORCH_PARALLEL if parallel else NON_TORCH,
    )


def _forward(shape: Architecture, batch: Batch) -> int:
    """The live tensors of a layer: four of the hidden size; queries, keys and values; gate, up, product."""
    width = shape.width
    if shape.experts:
        width = max(width, shape.experts.width * 2 + shape.experts.shared_width)
    heads = shape.heads * (shape.mla.nope + shape.mla.rope + shape.mla.value if shape.mla else shape.head_size)
    inner = 3 * width + heads + 2 * shape.kv_heads * shape.head_size
    return int(batch.tokens * batch.dtype_bytes * (4 * shape.hidden + inner / batch.tensor_parallel))
