"""Reads the weight files of a model's folder: names, types and sizes of the tensors, not their contents.

The format: huggingface/safetensors, README, "Format": 8 bytes with the header's length, then the header as JSON.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from .architecture import Architecture
from .weights import Part, Weights

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_SIZES = {**_FLOATS, "I64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LONGEST_HEADER = 100_000_000  # the format's own limit
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:embed_tokens|word_embeddings|wte|embed_in)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.")
# The heads of pre-training, which vLLM does not load for an embedding model.
_UNUSED = re.compile(r"(?:^|\.)pooler\.|(?:^|\.)cls\.|position_ids$|rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    dtype: str
    """The name in safetensors: `F32`, `BF16`, `I32`, `F8_E4M3`."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of the weight files' headers."""

    tensors: tuple[Tensor, ...]
    """Empty if only the index exists."""
    total: int | None
    """The total bytes in the index."""


def read(folder: Path) -> Checkpoint | None:
    """The weight files of a folder; None without any. Raises `OSError` or `ValueError` for a broken file."""
    index = folder / "model.safetensors.index.json"
    total, files = None, sorted(folder.glob("*.safetensors"))
    if index.is_file():
        content = json.loads(index.read_text("utf-8"))
        total = int((content.get("metadata") or {}).get("total_size") or 0) or None
        files = [folder / name for name in sorted(set(content.get("weight_map", {}).values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    if files and all(file.is_file() for file in files):
        return Checkpoint(tuple(tensor for file in files for tensor in _header(file)), total)
    return Checkpoint((), total) if total else None


def weights(checkpoint: Checkpoint, shape: Architecture, dtype_bytes: int) -> Weights:
    """The weights as vLLM loads them, each tensor in its part."""
    layers = [Part()] * shape.layers
    embedding, head, other = Part(), Part(), Part()
    for tensor in checkpoint.tensors:
        if _UNUSED.search(tensor.name):
            continue
        part = _part(tensor, dtype_bytes)
        layer = _LAYER.search(tensor.name)
        if layer and not tensor.name.startswith(("visual", "vision", "model.vision", "model.visual")):
            number = int(layer[1])
            if number < shape.layers:  # only speculative decoding loads higher layers
                layers[number] += part
        elif _EMBEDDING.search(tensor.name):
            embedding += part
        elif _HEAD.search(tensor.name):
            head += Part() if shape.tied else part
        else:
            other += part
    return Weights(tuple(layers), embedding, head, other, "files")


def _part(tensor: Tensor, dtype_bytes: int) -> Part:
    bits = dtype_bytes if tensor.dtype in _FLOATS and not _is_scale(tensor) else _SIZES.get(tensor.dtype, 1)
    size = math.prod(tensor.shape) * bits
    return Part(size) if len(tensor.shape) > 1 else Part(whole=size)


def _is_scale(tensor: Tensor) -> bool:
    """Whether the tensor is a 32-bit scale, which is not converted (scales of GPTQ and AWQ always have 16 bits)."""
    return "scale" in tensor.name and tensor.dtype == "F32"


def _header(file: Path) -> list[Tensor]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise ValueError(f"{file} is not a safetensors file")
        header = json.loads(stream.read(length))
    return [
        Tensor(name, tensor["dtype"], tuple(tensor["shape"]))
        for name, tensor in header.items()
        if name != "__metadata__"
    ]
