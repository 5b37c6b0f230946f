"""Assigns servers to GPUs and adds up the memory: each server's share, its parts, and the total of each GPU.

`gpu_memory_utilization` is a share of the GPU's total memory, regardless of other programs. The memory has to be free
when the server starts (vLLM 0.32, `v1/worker/utils.py`, `request_memory`):

    share     = total * gpu_memory_utilization
    KV cache  = share - weights - activation - CUDA graphs - non-torch
                (`v1/worker/gpu_worker.py`, `determine_available_memory`)
    GPU       : sum of shares + one CUDA context for each server <= total
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..servers import Server
from . import architecture, quantization
from .architecture import Architecture
from .checkpoint import weights as from_files
from .figures import GpuPlan, KvCache, Plan, ServerPlan
from .gpus import GIB, Gpu
from .kv_cache import Cut, Layout, layout
from .models import Model
from .options import Options, resolve
from .overhead import CONTEXT, Batch, Overhead, overhead
from .weights import Weights, computed, latent_copies, scaled

Models: TypeAlias = Callable[[str, str | None], Model]
"""(id or folder, revision) -> the model."""

LENGTHS = (2048, 8192, 32768, 131072)
"""The lengths (tokens) for which a plan shows the number of concurrent requests."""


def evaluate(servers: Sequence[Server], gpus: Sequence[Gpu], models: Models) -> Plan:
    """The plan, without suggestions. Raises `LaunchError` if a model's figures are unavailable."""
    placed = [(server, _gpus_of(server, gpus)) for server in servers if server.needs_gpu]
    plans = tuple(_server(server, on, gpus, models(server.model, server.revision)) for server, on in placed)
    return Plan(plans, tuple(_gpu(gpu, plans) for gpu in gpus))


def gib(size: int) -> str:
    """Bytes as text in GiB."""
    return f"{size / GIB:.2f} GiB" if abs(size) < 10 * GIB else f"{size / GIB:.1f} GiB"


def _gpus_of(server: Server, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    return tuple(gpu.index for gpu in gpus) if server.gpus == "all" else server.gpus


def _gpu(gpu: Gpu, plans: Sequence[ServerPlan]) -> GpuPlan:
    here = [plan for plan in plans if gpu.index in plan.gpus]
    shares = tuple((plan.name, plan.budget) for plan in here)
    result = GpuPlan(gpu.index, gpu.name, gpu.total, shares, len(here) * CONTEXT, ())
    if not here or result.free >= 0:
        return result
    text = (
        f"GPU {gpu.index} ({gpu.name}) has {gib(gpu.total)}, but {gib(-result.free)} more are allocated: "
        + ", ".join(f"{gib(share)} to {name}" for name, share in shares)
        + f", {gib(result.contexts)} to CUDA contexts. The last server would not start."
    )
    return GpuPlan(gpu.index, gpu.name, gpu.total, shares, result.contexts, (text,))


def _server(server: Server, on: tuple[int, ...], gpus: Sequence[Gpu], model: Model) -> ServerPlan:
    shape = architecture.read(model.config, server.model)
    there = [gpu for gpu in gpus if gpu.index in on]
    gpu = min(there or gpus, key=lambda one: one.total)
    longest = min(shape.max_len, model.max_seq_length or shape.max_len)
    options = resolve(server, shape, gpu, longest)
    weights = weigh(model, shape, options)
    taken = _on_gpu(weights, shape, options)
    needed = overhead(shape, _largest_step(options))
    cache = layout(shape, _cut(options))
    budget = math.ceil(gpu.total * options.gpu_memory_utilization)
    if options.kv_cache_memory_bytes:
        budget = taken + needed.total + options.kv_cache_memory_bytes
    available = budget - taken - needed.total
    if server.max_model_len == "auto" and cache and (fitting := cache.longest(available, options.max_model_len)):
        options = replace(options, max_model_len=fitting)  # vLLM measures first, with the model's window
    least = cache.least(options.max_model_len) if cache else 0
    return ServerPlan(
        name=server.name,
        model=server.model,
        model_source=model.source,
        weights_source=weights.source,
        gpus=on[: options.gpus],
        options=options,
        budget=budget,
        weights=taken,
        activation=needed.activation,
        cuda_graphs=needed.cuda_graphs,
        non_torch=needed.non_torch,
        kv_available=available,
        kv_cache=_kv_cache(cache, available, options) if cache else None,
        needs=taken + needed.total + least,
        problems=tuple(
            f"{server.name}: {text}"
            for text in (
                *_impossible(options, shape, longest, on, there),
                *_too_small(options, cache, available, budget, taken, needed),
            )
        ),
    )


def weigh(model: Model, shape: Architecture, options: Options) -> Weights:
    """The model's weights in the type in which the model runs, from the best available source."""
    copies = max(1, options.tensor_parallel_size // shape.kv_heads)
    packing = quantization.read(shape.quantization, options.quantization)
    estimate = computed(shape, options.dtype_bytes, packing, copies)
    online = shape.quantization is None and packing is not None
    if model.checkpoint is None or online:
        return estimate
    if model.checkpoint.tensors:
        return from_files(model.checkpoint, shape, options.dtype_bytes)
    assert model.checkpoint.total is not None
    stored = computed(shape, 4 if shape.dtype == "float32" else 2, packing, copies)
    return scaled(estimate, int(model.checkpoint.total * estimate.total / stored.total))


def _on_gpu(weights: Weights, shape: Architecture, options: Options) -> int:
    """The weights on each GPU, including what vLLM derives from them during loading."""
    extra = latent_copies(shape, options.dtype_bytes) + _lora(shape, options)
    return weights.on_gpu(options.tensor_parallel_size, options.pipeline_parallel_size) + extra // options.gpus


def _lora(shape: Architecture, options: Options) -> int:
    """The bytes of one adapter at a time (`max_loras`): two low-rank matrices for each matrix (arXiv 2106.09685)."""
    if not options.lora_rank:
        return 0
    sides = sum(
        (linear.inputs + linear.outputs) * linear.copies
        for layer in range(shape.layers)
        for linear in shape.linears(layer)
    )
    return options.lora_rank * sides * options.dtype_bytes


def _largest_step(options: Options) -> Batch:
    return Batch(
        tokens=options.max_num_batched_tokens,
        sequences=options.max_num_seqs,
        dtype_bytes=options.dtype_bytes,
        eager=options.enforce_eager,
        pooling=options.pooling,
        tensor_parallel=options.tensor_parallel_size,
        pipeline_parallel=options.pipeline_parallel_size,
    )


def _cut(options: Options) -> Cut:
    return Cut(
        dtype=options.kv_cache_dtype,
        block=options.block_size,
        in_flight=options.in_flight,
        tensor_parallel=options.tensor_parallel_size,
        pipeline_parallel=options.pipeline_parallel_size,
        hybrid=options.hybrid,
    )


def _kv_cache(cache: Layout, available: int, options: Options) -> KvCache | None:
    pool = cache.pool(available)
    if pool < 2:
        return None
    longest = options.max_model_len
    lengths = sorted({length for length in LENGTHS if length < longest} | {longest})
    return KvCache(
        token_bytes=sum(layers for _, layers in cache.groups) * cache.token_bytes,
        late_token_bytes=sum(layers for kind, layers in cache.groups if kind == "full") * cache.token_bytes,
        request_bytes=cache.request_bytes(longest),
        least_bytes=cache.least(longest),
        tokens=cache.tokens(available, longest),
        concurrency=cache.concurrency(available, longest),
        sequences=tuple((length, (pool - 1) // cache.blocks(length)) for length in lengths),
    )


def _impossible(
    options: Options, shape: Architecture, longest: int, on: Sequence[int], there: Sequence[Gpu]
) -> list[str]:
    """The problems that more memory does not solve."""
    texts = []
    if len(there) < len(on):
        missing = sorted(set(on) - {gpu.index for gpu in there})
        texts.append(f"it needs GPU {', '.join(map(str, missing))}, which does not exist.")
    if options.gpus > len(on):
        texts.append(f"its parallel sizes need {options.gpus} GPUs, and it has {len(on)}.")
    if shape.heads % options.tensor_parallel_size:
        texts.append(f"{shape.heads} attention heads cannot be divided among {options.tensor_parallel_size} GPUs.")
    if options.max_model_len > longest:
        texts.append(f"max_model_len is {options.max_model_len:,}, but the model supports {longest:,} tokens.")
    return texts


def _too_small(
    options: Options, cache: Layout | None, available: int, budget: int, weights: int, needed: Overhead
) -> list[str]:
    """Why the share is too small; empty if it is large enough."""
    fixed = f"{gib(weights)} of weights and {gib(needed.total)} to run them"
    if available <= 0 and (cache is not None or available < 0):
        return [f"its share is {gib(budget)}, and it needs {fixed}."]
    if cache is None or cache.least(options.max_model_len) <= available:
        return []
    longest = cache.longest(available, options.max_model_len)
    return [
        f"of its share of {gib(budget)}, after {fixed}, {gib(available)} are left for the KV cache; one request of "
        f"max_model_len {options.max_model_len:,} tokens needs {gib(cache.least(options.max_model_len))}"
        + (f". {longest:,} tokens would fit." if longest else ".")
    ]
