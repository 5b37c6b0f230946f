"""The size of quantized matrices: packed weights, scales, zero points. And which matrices are not quantized.

The layouts are those that vLLM 0.32 allocates: `create_weights` in `model_executor/layers/quantization/` auto_awq.py,
auto_gptq.py, fp8.py, compressed_tensors/, modelopt.py. Embeddings, norms, routers of experts and, by default, the
output matrix are not quantized: `get_quant_method` there applies only to linear layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .architecture import Linear

SCALE = 2
"""Bytes of a group's scale, in the model's 16-bit type."""
_ROUTERS = ("mlp.gate", "block_sparse_moe.gate")


_ALL = 1 << 30  # more outputs than any matrix has: one scale for all outputs


@dataclass(frozen=True, slots=True)
class Quantization:
    """A method of packing a matrix."""

    method: str
    bits: int
    group: int = 0
    """Inputs that share a scale; 0: all inputs (a scale for each output)."""
    group_outputs: int = 1
    """Outputs that share a scale, with block-wise FP8."""
    scale: float = SCALE
    """Bytes of a scale."""
    zero_bits: int = 0
    """Bits of a group's zero point; 0 without one."""
    per_input: int = 0
    """Bytes for each input, independent of the outputs: GPTQ's order of groups."""
    skipped: tuple[str, ...] = ()
    """Names, parts of names or `re:` patterns of matrices that are not packed."""
    only: str = ""
    """If not empty: only matrices whose name contains this are packed."""

    def packs(self, name: str) -> bool:
        """Whether the matrix of this name is packed."""
        if self.only not in name or name.endswith(_ROUTERS):
            return False
        return not any(_matches(pattern, name) for pattern in self.skipped)

    def bytes(self, linear: Linear) -> int:
        """Bytes of one packed matrix."""
        groups = math.ceil(linear.inputs / self.group) if self.group else 1
        scales = groups * math.ceil(linear.outputs / self.group_outputs)
        packed = linear.inputs * linear.outputs * self.bits / 8
        zeros = scales * self.zero_bits / 8
        return math.ceil(packed + scales * self.scale + zeros) + self.per_input * linear.inputs


def read(config: Mapping[str, Any] | None, flag: str | None = None) -> Quantization | None:
    """The quantization in a `quantization_config`, or of vLLM's `--quantization` during loading.

    None: nothing is packed, or the method is unknown (see `known`).
    """
    if config is None:
        return _ONLINE.get(flag or "")
    method = _method(config)
    reader = _READERS.get(method)
    return reader(config) if reader else None


def known(config: Mapping[str, Any] | None) -> bool:
    """Whether `read` supports the method, or there is no quantization."""
    return config is None or _method(config) in _READERS


def _method(config: Mapping[str, Any]) -> str:
    method = str(config.get("quant_method") or config.get("quant_algo") or "").lower().replace("_", "-")
    return {"awq-marlin": "awq", "auto-awq": "awq", "gptq-marlin": "gptq", "nvfp4": "modelopt-fp4"}.get(method, method)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return pattern in name or name.endswith(pattern)


def _awq(config: Mapping[str, Any]) -> Quantization:
    bits = int(config.get("bits") or config.get("w_bit") or 4)
    group = int(config.get("group_size") or config.get("q_group_size") or 128)
    skipped = tuple(config.get("modules_to_not_convert") or ())
    return Quantization("awq", bits, max(group, 0), zero_bits=bits, skipped=skipped)


def _gptq(config: Mapping[str, Any]) -> Quantization:
    bits = int(config.get("bits") or 4)
    group = max(int(config.get("group_size") or 128), 0)
    # `qzeros` always exist, even if the file does not use them; `g_idx` exists if inputs are ordered by activation.
    return Quantization("gptq", bits, group, zero_bits=bits, per_input=4 if config.get("desc_act") else 0)


def _fp8(config: Mapping[str, Any]) -> Quantization:
    skipped = tuple(config.get("modules_to_not_convert") or config.get("ignored_layers") or ())
    block = config.get("weight_block_size")
    if block:
        return Quantization("fp8", 8, int(block[1]), int(block[0]), scale=4, skipped=skipped)
    return Quantization("fp8", 8, 0, group_outputs=_ALL, scale=4, skipped=skipped)


def _compressed(config: Mapping[str, Any]) -> Quantization | None:
    groups = config.get("config_groups") or {}
    weights = next((group["weights"] for group in groups.values() if group.get("weights")), None)
    if weights is None:
        return None
    bits, strategy = int(weights.get("num_bits", 8)), weights.get("strategy", "channel")
    skipped = tuple(config.get("ignore") or ())
    if strategy == "group":
        zero = 0 if weights.get("symmetric", True) else bits
        return Quantization("compressed-tensors", bits, int(weights["group_size"]), zero_bits=zero, skipped=skipped)
    if strategy == "tensor_group":  # NVFP4: an FP8 scale for 16 weights
        return Quantization("compressed-tensors", bits, int(weights.get("group_size") or 16), scale=1, skipped=skipped)
    if strategy == "block":
        outputs, inputs = weights.get("block_structure") or (128, 128)
        return Quantization("compressed-tensors", bits, int(inputs), int(outputs), scale=4, skipped=skipped)
    outputs = 1 if strategy == "channel" else _ALL
    return Quantization("compressed-tensors", bits, 0, outputs, scale=4, skipped=skipped)


def _bitsandbytes(config: Mapping[str, Any]) -> Quantization:
    skipped = tuple(config.get("llm_int8_skip_modules") or ())
    if config.get("load_in_8bit"):
        return Quantization("bitsandbytes", 8, 0, scale=4, skipped=skipped)
    # NF4: a 32-bit scale for a block of 64 weights (arXiv 2305.14314, section 3). vLLM does not pack the scales.
    return Quantization("bitsandbytes", 4, 64, scale=4, skipped=skipped)


def _mxfp4(config: Mapping[str, Any]) -> Quantization:
    # A shared 8-bit exponent for 32 weights (OCP Microscaling Formats 1.0). Only the experts are packed.
    return Quantization(
        "mxfp4", 4, 32, scale=1, only="experts", skipped=tuple(config.get("modules_to_not_convert") or ())
    )


def _nvfp4(config: Mapping[str, Any]) -> Quantization:
    return Quantization(
        "nvfp4", 4, 16, scale=1, skipped=tuple(config.get("exclude_modules") or config.get("ignore") or ())
    )


_READERS = {
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "modelopt": _fp8,
    "fbgemm-fp8": _fp8,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "modelopt-fp4": _nvfp4,
}
# The methods with which vLLM packs 16-bit weights during loading.
_ONLINE = {"fp8": _fp8({}), "bitsandbytes": _bitsandbytes({}), "mxfp4": _mxfp4({})}
