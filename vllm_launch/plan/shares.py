"""Deals a GPU's memory to the servers on it: to each what it needs, and the rest to the one with most cache to fill."""

from __future__ import annotations

import math

from .figures import Plan

MOST = 0.97
"""A share above this leaves too little for the driver and for what grows while a server runs."""
_SPARE = 0.02
"""Of a GPU, what is given to nobody where there is a choice."""
_MARGIN = 1.1
"""Of what a server needs by the estimates, what it is given where there is a choice."""


def allocate(plan: Plan, *, tight: bool = False) -> dict[str, float]:
    """The `gpu_memory_utilization` of each server that has it changed. `tight`: nothing is left as a margin."""
    shares: dict[str, float] = {}
    for gpu in plan.gpus:
        for name, share in split(plan, gpu.index, tight=tight).items():
            shares[name] = min(share, shares.get(name, share))
    return {name: share for name, share in shares.items() if share != plan.server(name).options.gpu_memory_utilization}


def split(plan: Plan, index: int, *, tight: bool = False) -> dict[str, float]:
    """The shares on one GPU, in hundredths. A server whose KV cache has a fixed size has no use for one."""
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
