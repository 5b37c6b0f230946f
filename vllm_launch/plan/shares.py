"""Allocates a GPU's memory to its servers: each gets what it needs, and the largest one with a KV cache the rest."""

from __future__ import annotations

import math

from .figures import Plan

MOST = 0.97
"""The largest share. Above it, too little is left for the driver and for memory that grows at run time."""
_SPARE = 0.02
"""The share of a GPU that stays free, unless the allocation is tight."""
_MARGIN = 1.1
"""The factor on a server's estimated need, unless the allocation is tight."""


def allocate(plan: Plan, *, tight: bool = False) -> dict[str, float]:
    """The new `gpu_memory_utilization` of each server whose share changes. `tight`: without a margin."""
    shares: dict[str, float] = {}
    for gpu in plan.gpus:
        for name, share in split(plan, gpu.index, tight=tight).items():
            shares[name] = min(share, shares.get(name, share))
    return {name: share for name, share in shares.items() if share != plan.server(name).options.gpu_memory_utilization}


def split(plan: Plan, index: int, *, tight: bool = False) -> dict[str, float]:
    """The shares on one GPU, in hundredths. A server with a fixed KV cache size needs no share."""
    margin, spare = (1.0, 0.0) if tight else (_MARGIN, _SPARE)
    gpu = next(gpu for gpu in plan.gpus if gpu.index == index)
    here = [server for server in plan.servers if index in server.gpus]
    fixed = sum(server.budget for server in here if server.options.kv_cache_memory_bytes)
    sharing = [server for server in here if not server.options.kv_cache_memory_bytes]
    shares = {server.name: min(math.ceil(server.needs * margin / gpu.total * 100) / 100, MOST) for server in sharing}
    caching = [server for server in sharing if server.needs > server.fixed]
    if caching:
        first = max(caching, key=lambda server: server.needs).name
        others = sum(share for name, share in shares.items() if name != first)
        rest = 1 - (gpu.contexts + fixed) / gpu.total - spare - others
        shares[first] = max(min(math.floor(rest * 100) / 100, MOST), 0.01)
    return shares
