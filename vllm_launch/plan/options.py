"""Resolves the options of a server as vLLM does: from its description, its extra arguments, and vLLM's defaults.

The defaults are those of vLLM 0.32: `engine/arg_utils.py`, `get_batch_defaults` and the function that uses them;
`config/cache.py` for the block; `config/vllm.py`, `max_concurrent_batches`, for tokens in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..runtimes.base import LaunchError
from ..servers import Server
from .architecture import Architecture
from .gpus import GIB, Gpu

LEFT_OUT = (
    "speculative-config",
    "cpu-offload-gb",
    "data-parallel-size",
    "enable-expert-parallel",
    "decode-context-parallel-size",
    "num-gpu-blocks-override",
    "kv-cache-dtype-skip-layers",
)
"""Flags that change a server's memory and that the plan ignores."""

BLOCK = 16
# The MLA kernels for CUDA have a different block size (`v1/attention/backends/mla/flashmla.py`).
MLA_BLOCK = 64

_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Options:
    """The resolved options of a server that determine its memory."""

    max_model_len: int
    """Tokens."""
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    kv_cache_dtype: str
    kv_cache_memory_bytes: int | None
    dtype: str
    quantization: str | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    block_size: int
    enforce_eager: bool
    hybrid: bool
    """Whether sliding layers free blocks."""
    pooling: bool
    in_flight: int
    """Tokens of the steps that may run concurrently."""
    lora_rank: int
    """0 without LoRA."""

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number in the type in which the model runs."""
        return _BYTES.get(self.dtype, 2)

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


def resolve(server: Server, shape: Architecture, gpu: Gpu, longest: int) -> Options:
    """The options of a server on this kind of GPU. `longest`: the maximum tokens of the model.

    Raises `LaunchError` for an extra argument that must be a number and is not.
    """
    extra = flags(server.extra_args)
    pooling = server.runner == "pooling" or shape.encoder_only
    length = server.max_model_len if isinstance(server.max_model_len, int) else longest
    pipeline = server.pipeline_parallel_size or 1
    tokens, sequences = _batch(server, gpu, length, whole=shape.encoder_only)
    dtype = _dtype(server.dtype or "auto", shape, pooling)
    return Options(
        max_model_len=length,
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        gpu_memory_utilization=server.share,
        kv_cache_dtype=_cache_dtype(server.kv_cache_dtype or "auto", dtype),
        kv_cache_memory_bytes=server.kv_cache_memory_bytes,
        dtype=dtype,
        quantization=server.quantization,
        tensor_parallel_size=server.tensor_parallel_size or 1,
        pipeline_parallel_size=pipeline,
        block_size=_block_size(extra, server) or (MLA_BLOCK if shape.mla else BLOCK),
        enforce_eager=server.enforce_eager,
        hybrid="disable-hybrid-kv-cache-manager" not in extra,
        pooling=pooling,
        in_flight=tokens * _batches(pooling, pipeline, extra),
        lora_rank=(server.max_lora_rank or 16) if server.lora_modules else 0,
    )


def _batches(pooling: bool, pipeline: int, extra: Mapping[str, str]) -> int:
    """The number of concurrent steps: one for each stage of a pipeline, and one more with async scheduling."""
    return pipeline if pooling or "no-async-scheduling" in extra else pipeline + 1


def _batch(server: Server, gpu: Gpu, length: int, *, whole: bool) -> tuple[int, int]:
    """Tokens and sequences of the largest step. `whole`: inputs are not split, so the longest has to fit."""
    tokens, sequences = _batch_defaults(gpu)
    most = server.max_num_seqs or sequences
    tokens = server.max_num_batched_tokens or min(max(tokens, length) if whole else tokens, most * length)
    return tokens, server.max_num_seqs or min(sequences, tokens)


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """vLLM's defaults for the tokens and sequences of a step, by the GPU."""
    if gpu.total >= 160 * GIB:
        return 16384, 1024
    if gpu.total >= 70 * GIB and not gpu.is_a100:
        return 8192, 1024
    return 2048, 256


def _dtype(given: str, shape: Architecture, pooling: bool) -> str:
    """The type of the model, as in `config/model.py`, `_resolve_auto_dtype`: 32-bit models run in 16 bits."""
    if given != "auto":
        return {"half": "float16", "float": "float32"}.get(given, given)
    if shape.dtype == "float32":
        return "float16" if pooling else "bfloat16"
    return shape.dtype


def _cache_dtype(given: str, dtype: str) -> str:
    return dtype if given == "auto" else given


def flags(arguments: Sequence[str]) -> dict[str, str]:
    """The flags of `extra_args`: name without dashes -> value; empty for a switch."""
    found: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            found[name] = value
        elif name and not found[name]:
            found[name] = argument
    return found


def _block_size(extra: Mapping[str, str], server: Server) -> int | None:
    text = extra.get("block-size")
    if not text:
        return None
    if not text.isdigit():
        raise LaunchError(f"The server {server.name!r} has --block-size {text!r} in extra_args. It must be a number.")
    return int(text)
