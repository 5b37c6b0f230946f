"""How much GPU memory servers take, and whether it is there: `plan`, before anything is started.

    architecture, quantization   what a config.json says
    checkpoint, weights          bytes of the weights
    kv_cache, room               bytes of the KV cache, and of all else
    gpus, models, known, options what there is to plan with
    budget, shares, changes      adding up, and what would fit
    planning                     all of it together
    show                         the plan in words

docs/gpu-memory.md has the formulas and their sources.
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
