"""Computes the GPU memory of servers before they start, and whether it is available.

    architecture, quantization     the content of a config.json
    checkpoint, weights            bytes of the weights
    kv_cache, overhead             bytes of the KV cache, and of everything else
    gpus, models, known, options   the inputs of a plan
    budget, shares, changes        the sums, and changes that would fit
    planning                       the complete plan
    show                           the plan as text

docs/gpu-memory.md contains the formulas and their sources.
"""

from .figures import Change, GpuPlan, KvCache, Plan, ServerPlan, Suggestion
from .gpus import Gpu, cards, gpus_here, named
from .models import Model, download, find, published
from .planning import plan
from .show import render

__all__ = [
    "Change",
    "Gpu",
    "GpuPlan",
    "KvCache",
    "Model",
    "Plan",
    "ServerPlan",
    "Suggestion",
    "cards",
    "download",
    "find",
    "gpus_here",
    "named",
    "plan",
    "published",
    "render",
]
