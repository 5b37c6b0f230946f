"""The size of the KV cache, computed as in vLLM 0.32: blocks of tokens, groups of layers, one pool for all groups.

bytes of a token in a layer   = KV heads on this GPU * 2 * head size * bytes of the cache's type
                                (`v1/kv_cache_interface.py`, `AttentionSpec`; MLA: one vector of rank + rope)
groups                        = layers of one kind, as many in each group as the rarest kind has
                                (`v1/core/kv_cache_utils.py`, `_get_kv_cache_groups_uniform_page_size`)
bytes of a block              = the largest group's bytes of a token * tokens of a block
                                (`_get_kv_cache_bytes_per_block`)
blocks of a request, full     = ceil(length / block)                (`FullAttentionSpec.max_memory_usage_bytes`)
blocks of a request, sliding  = ceil(min(window - 1 + tokens in flight, length) / block) + 1
                                (`SlidingWindowSpec.max_admission_blocks_per_request`)
concurrency                   = blocks / sum over groups of a request's blocks
                                (`get_max_concurrency_for_kv_cache_config`)
"GPU KV cache size"           = concurrency * max_model_len         (`get_kv_cache_capacity`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtimes.base import LaunchError
from .architecture import Architecture, Kind
from .weights import stage_layers

_BYTES = {
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"), 1.0),
    **dict.fromkeys(("float16", "bfloat16", "half"), 2.0),
    "float32": 4.0,
    # Two values in a byte, and a byte of scale for 16 (`utils/torch_utils.py`, `nvfp4_kv_cache_full_dim`).
    "nvfp4": 0.5 + 1 / 16,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a model's cache on one GPU."""

    groups: tuple[tuple[Kind, int], ...]
    """(kind, layers of the group), on the GPU of the pipeline with the most layers."""
    token_bytes: int
    """Bytes of a token in one layer."""
    block: int
    """Tokens of a block."""
    window: int
    in_flight: int
    """Tokens whose blocks cannot be freed yet."""

    @property
    def block_bytes(self) -> int:
        """The bytes of a block."""
        return max(layers for _, layers in self.groups) * self.token_bytes * self.block

    def blocks(self, length: int) -> int:
        """The maximum blocks of a request of this length."""
        return sum(self._group_blocks(kind, length) for kind, _ in self.groups)

    def request_bytes(self, length: int) -> int:
        """The maximum bytes of a request of this length."""
        return self.blocks(length) * self.block_bytes

    def least(self, length: int) -> int:
        """The minimum bytes with which vLLM starts: one request of this length, and one reserved block."""
        return (self.blocks(length) + 1) * self.block_bytes

    def pool(self, available: int) -> int:
        """The number of blocks in this memory."""
        return max(available, 0) // self.block_bytes

    def concurrency(self, available: int, length: int) -> float:
        """The number of concurrent requests of this length: vLLM's "Maximum concurrency"."""
        return self.pool(available) / self.blocks(length)

    def tokens(self, available: int, max_model_len: int) -> int:
        """vLLM's "GPU KV cache size", in tokens."""
        return int(self.concurrency(available, max_model_len) * max_model_len)

    def longest(self, available: int, limit: int) -> int:
        """The longest `max_model_len`, up to `limit`, with which vLLM starts; 0 if it does not start."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.least(middle) <= available else (low, middle - 1)
        return low

    def _group_blocks(self, kind: Kind, length: int) -> int:
        if kind == "full":
            return math.ceil(length / self.block)
        return math.ceil(min(self.window - 1 + self.in_flight, length) / self.block) + 1


@dataclass(frozen=True, slots=True)
class Cut:
    """The options of a server that determine the layout."""

    dtype: str
    """The type of the cache: `fp8`, `bfloat16`, …."""
    block: int
    in_flight: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    hybrid: bool = True
    """False: sliding layers keep all tokens, like global layers."""


def layout(shape: Architecture, cut: Cut) -> Layout | None:
    """The layout of a model's cache; None for a model without one. Raises `LaunchError` for an unknown cache type."""
    if shape.encoder_only:
        return None
    kinds: Sequence[Kind] = shape.kinds
    if not cut.hybrid and len(set(kinds)) > 1:
        kinds = ["full"] * len(kinds)
    groups = tuple(
        (kinds[group[0]], max(_on_stage(group, stage, shape.layers, cut) for stage in range(cut.pipeline_parallel)))
        for group in _groups(kinds)
    )
    return Layout(groups, _token_bytes(shape, cut), cut.block, shape.window, cut.in_flight)


def _token_bytes(shape: Architecture, cut: Cut) -> int:
    one = _BYTES.get(cut.dtype)
    if shape.mla is not None:
        if cut.dtype == "fp8_ds_mla":
            return 656  # `mla_attention.py`, `get_kv_cache_spec`
        if one is not None:
            return int(shape.head_size * one)  # every GPU holds the whole vector
    if one is None:
        raise LaunchError(
            f"The plan does not support a KV cache of type {cut.dtype!r}. Supported types: {', '.join(_BYTES)}."
        )
    heads = max(1, shape.kv_heads // cut.tensor_parallel)
    return int(heads * 2 * shape.head_size * one)


def _groups(kinds: Sequence[Kind]) -> list[list[int]]:
    """The layers of each group, in vLLM's order."""
    by_kind: dict[Kind, list[int]] = {}
    for layer, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(layer)
    fewest = min(len(layers) for layers in by_kind.values())
    most = max(len(layers) for layers in by_kind.values())
    size = most if most < fewest * 1.5 else fewest
    groups: list[list[int]] = []
    for layers in by_kind.values():
        count = math.ceil(len(layers) / size)
        groups.extend(layers[number::count] for number in range(count))
    return groups


def _on_stage(group: Sequence[int], stage: int, layers: int, cut: Cut) -> int:
    first, end = stage_layers(layers, stage, cut.pipeline_parallel)
    return sum(first <= layer < end for layer in group)
