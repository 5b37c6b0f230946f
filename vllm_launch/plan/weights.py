"""The bytes of a model's weights on a GPU, from its files or, without files, from its shape.

Shape: the matrices of `Architecture.linears`, packed as in `quantization`; 16 bits for the rest. Files: the sizes in
the headers of the safetensors files; floating-point tensors are converted to the type in which the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .architecture import Architecture
from .quantization import Quantization

Source: TypeAlias = Literal["files", "index", "config"]
"""The headers of the weight files, the total in their index, or computed from the config.json alone."""

VOCABULARY_PADDING = 64
"""vLLM rounds a vocabulary up to this (`vocab_parallel_embedding.py`, `DEFAULT_VOCAB_PADDING_SIZE`)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that tensor parallelism splits among GPUs, and bytes that each GPU has in full."""

    split: int = 0
    whole: int = 0

    def __add__(self, other: Part) -> Part:
        """The sum of both parts."""
        return Part(self.split + other.split, self.whole + other.whole)

    def on_one(self, tensor_parallel: int) -> int:
        """Bytes on each GPU."""
        return math.ceil(self.split / tensor_parallel) + self.whole

    def scaled(self, factor: float) -> Part:
        """The part multiplied by a factor."""
        return Part(int(self.split * factor), int(self.whole * factor))


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a model, by their place in a pipeline."""

    layers: tuple[Part, ...]
    embedding: Part
    head: Part
    """The output matrix, on the last GPU of a pipeline, if it differs from the input embedding."""
    other: Part
    """The weights on every GPU of a pipeline: final norm, vision tower."""
    source: Source

    @property
    def total(self) -> int:
        """Bytes of the whole model."""
        return self.on_gpu(1, 1)

    def on_gpu(self, tensor_parallel: int, pipeline_parallel: int) -> int:
        """The bytes on the GPU with the most weights."""
        return max(
            sum((part for part in self._stage(stage, pipeline_parallel)), Part()).on_one(tensor_parallel)
            for stage in range(pipeline_parallel)
        )

    def _stage(self, stage: int, stages: int) -> Iterable[Part]:
        first, end = stage_layers(len(self.layers), stage, stages)
        yield from self.layers[first:end]
        yield self.other
        if stage == 0:
            yield self.embedding
        if stage == stages - 1:
            yield self.head


def stage_layers(layers: int, stage: int, stages: int) -> tuple[int, int]:
    """First layer and end of a pipeline's stage: vLLM's `distributed/utils.py`, `get_pp_indices`.

    Remaining layers go to the stages before the last one, from the back.
    """
    sizes = [layers // stages] * stages
    for index in range(layers % stages):
        sizes[-(index + 2) % stages] += 1
    return sum(sizes[:stage]), sum(sizes[: stage + 1])


def computed(shape: Architecture, dtype_bytes: int, packing: Quantization | None, kv_copies: int = 1) -> Weights:
    """The weights from the model's shape. `kv_copies`: copies of each key-value head, with many GPUs."""
    padded = math.ceil(shape.vocabulary / VOCABULARY_PADDING) * VOCABULARY_PADDING
    embedding = padded * shape.hidden * dtype_bytes
    rest = (shape.positions + shape.types) * shape.hidden + shape.hidden * (2 if shape.encoder_only else 1)
    return Weights(
        layers=tuple(_layer(shape, layer, dtype_bytes, packing, kv_copies) for layer in range(shape.layers)),
        embedding=Part(embedding),
        head=Part() if shape.tied or shape.encoder_only else Part(embedding),
        other=Part(whole=rest * dtype_bytes),
        source="config",
    )


def _layer(shape: Architecture, layer: int, dtype_bytes: int, packing: Quantization | None, kv_copies: int) -> Part:
    split = 0
    for linear in shape.linears(layer):
        packed = packing is not None and packing.packs(linear.name)
        one = packing.bytes(linear) if packing and packed else linear.inputs * linear.outputs * dtype_bytes
        bias = linear.outputs * dtype_bytes if linear.bias else 0
        copies = kv_copies if linear.name in ("self_attn.k_proj", "self_attn.v_proj") else linear.copies
        split += (one + bias) * copies
    return Part(split, shape.norms() * dtype_bytes)


def latent_copies(shape: Architecture, dtype_bytes: int) -> int:
    """Bytes that MLA needs in addition to its weights: `kv_b_proj`, unpacked and transposed, as two matrices.

    vLLM's `model_executor/layers/attention/mla_attention.py`, `process_weights_after_loading`: `W_UK_T` and `W_UV`.
    """
    if shape.mla is None:
        return 0
    return shape.layers * shape.mla.kv_rank * shape.heads * (shape.mla.nope + shape.mla.value) * dtype_bytes


def scaled(weights: Weights, total: int) -> Weights:
    """The computed weights, scaled to the total in their index."""
    factor = total / weights.total
    return Weights(
        layers=tuple(part.scaled(factor) for part in weights.layers),
        embedding=weights.embedding.scaled(factor),
        head=weights.head.scaled(factor),
        other=weights.other.scaled(factor),
        source="index",
    )
