"""Determines family, size and quantisation of a model from its name.

Names on model hubs follow a convention: `EXAONE-4.0-32B-AWQ`, `Qwen3-30B-A3B-Instruct-2507-FP8`,
`Llama-3.2-3B-Instruct-Q4_K_M`. A detail that the name does not contain stays empty.
"""

from __future__ import annotations

import re

from ..steps import JsonObject
from .model_families import family_name

_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?(?:x\d+(?:\.\d+)?)?)([bm])(?![a-z0-9])", re.I)
_QUANTISATION = re.compile(
    r"(?<![a-z0-9])(awq|gptq(?:-int[48])?|fp8|nvfp4|mxfp[48]|int[48]|w\d+a\d+|bnb-4bit|4bit|8bit|q\d(?:_[k0-9])?(?:_[sml])?)"
    r"(?![a-z0-9])",
    re.I,
)


def details(served: str, root: str | None) -> JsonObject:
    """Ollama's `details` of a model. `served` is its name; `root` is the path or hub id that vLLM loaded."""
    names = [name.rstrip("/").rpartition("/")[2] for name in (root, served) if name]
    family = family_name(names[0]) if names else ""
    return {
        "parent_model": root or served,
        "format": "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _first(_SIZE, names).upper(),
        "quantization_level": _first(_QUANTISATION, names).upper(),
    }


def _first(pattern: re.Pattern[str], names: list[str]) -> str:
    return next((found[0] for name in names if (found := pattern.search(name))), "")
