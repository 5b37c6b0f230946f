"""The plan that people ask for: what fits, what would have to change, and what is worth knowing."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..runtimes.base import LaunchError
from ..servers import Server
from . import architecture, quantization
from .architecture import Config
from .budget import Models, evaluate, gib
from .changes import suggest
from .figures import Plan, ServerPlan
from .gpus import Gpu
from .models import PUBLISHED, find, here
from .options import LEFT_OUT, flags
from .shares import split


def plan(servers: Sequence[Server], gpus: Sequence[Gpu], models: Models = find) -> Plan:
    """What the servers take of the GPUs' memory, whether it fits, and if not, what would.

    Servers without GPUs are left out, with a note. Raises `LaunchError` where a model is nowhere on this machine, where
    its config.json can't be made sense of, and where there is nothing to plan.
    """
    if not gpus:
        raise LaunchError("There is no GPU to plan for.")
    if not any(server.needs_gpu for server in servers):
        raise LaunchError("None of these servers is described as running on GPUs: there is nothing to plan.")
    cached = functools.cache(models)
    servers = [here(server) for server in servers]
    result = evaluate(servers, gpus, cached)
    suggestions = () if result.fits else suggest(servers, result, gpus, cached)
    return replace(result, suggestions=suggestions, notes=tuple(_notes(servers, result, cached)))


def _notes(servers: Sequence[Server], result: Plan, models: Models) -> Iterator[str]:
    for server in servers:
        if not server.needs_gpu:
            yield f"{server.name} has no GPUs in its description and is left out."
    for one in result.servers:
        yield from _left_out(servers, one.name, models(one.model, _revision(servers, one.name)).config)
        if one.weights_source == "config":
            yield f"{one.name}: the weights are {_computed(one)}."
        config = architecture.read(models(one.model, _revision(servers, one.name)).config, one.model).quantization
        if not quantization.known(config):
            yield f"{one.name}: its quantisation is unknown here: without its files, the weights count as 16 bits."
    for gpu in result.gpus:
        if len(gpu.shares) > 1:
            yield (
                f"GPU {gpu.index} is shared: start its servers one after the other. vLLM measures what is free while "
                "it starts, and takes what another server fills meanwhile for its own."
            )
    yield from _idle(result)


def _computed(server: ServerPlan) -> str:
    if server.model_source == PUBLISHED:
        return f"computed from {PUBLISHED}; once its files are in the hub's cache, they are read"
    return f"computed from the config.json in {server.model_source}; once its weights are there too, their sizes count"


def _left_out(servers: Sequence[Server], name: str, config: Config) -> Iterator[str]:
    """What changes a server's memory and is not counted."""
    server = next(server for server in servers if server.name == name)
    unheeded = [f"--{flag}" for flag in flags(server.extra_args) if flag in LEFT_OUT]
    if unheeded:
        yield f"{name}: {', '.join(unheeded)} changes what it takes, and is not in these figures."
    if "vision_config" in config:
        yield f"{name}: what its vision encoder needs while it runs is not in these figures."


def _idle(result: Plan) -> Iterator[str]:
    """Shares that are larger than they need be, where another server could use the memory."""
    for gpu in result.gpus:
        if gpu.problems or not gpu.shares or not result.fits:
            continue
        better = split(result, gpu.index)
        now = {name: result.server(name).options.gpu_memory_utilization for name, _ in gpu.shares}
        gain = max((better[name] - now[name] for name in better), default=0.0)
        if gain * gpu.total > 0.05 * gpu.total:
            written = ", ".join(f"{name} {share:.2f}" for name, share in better.items())
            more = gib(int(gain * gpu.total))
            yield f"GPU {gpu.index}: with gpu_memory_utilization {written}, the KV cache would have {more} more."


def _revision(servers: Sequence[Server], name: str) -> str | None:
    return next(server.revision for server in servers if server.name == name)
