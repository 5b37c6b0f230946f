"""Creates the complete plan: whether the servers fit, suggestions if not, and notes."""

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
    """The plan of the servers' memory, with suggestions if they do not fit.

    Servers without GPUs are skipped, with a note. Raises `LaunchError` if a model is not on this machine, if its
    config.json is not supported, and if there is nothing to plan.
    """
    if not gpus:
        raise LaunchError("There is no GPU to plan for.")
    if not any(server.needs_gpu for server in servers):
        raise LaunchError("None of these servers runs on GPUs: there is nothing to plan.")
    cached = functools.cache(models)
    servers = [here(server) for server in servers]
    result = evaluate(servers, gpus, cached)
    suggestions = () if result.fits else suggest(servers, result, gpus, cached)
    return replace(result, suggestions=suggestions, notes=tuple(_notes(servers, result, cached)))


def _notes(servers: Sequence[Server], result: Plan, models: Models) -> Iterator[str]:
    for server in servers:
        if not server.needs_gpu:
            yield f"{server.name} has no GPUs in its description and is skipped."
    for one in result.servers:
        yield from _left_out(servers, one.name, models(one.model, _revision(servers, one.name)).config)
        if one.weights_source == "config":
            yield f"{one.name}: the weights are {_computed(one)}."
        config = architecture.read(models(one.model, _revision(servers, one.name)).config, one.model).quantization
        if not quantization.known(config):
            yield f"{one.name}: its quantization is unknown. Without its files, the weights count as 16 bits."
    for gpu in result.gpus:
        if len(gpu.shares) > 1:
            yield (
                f"GPU {gpu.index} is shared: start its servers one after the other. vLLM measures the free memory "
                "while it starts, and counts memory that another server allocates meanwhile as its own."
            )
    yield from _idle(result)


def _computed(server: ServerPlan) -> str:
    if server.model_source == PUBLISHED:
        return f"computed from {PUBLISHED}; once its files are in the hub's cache, they are read"
    return f"computed from the config.json in {server.model_source}; once its weights exist, their sizes are used"


def _left_out(servers: Sequence[Server], name: str, config: Config) -> Iterator[str]:
    """The notes on memory that the plan does not count."""
    server = next(server for server in servers if server.name == name)
    unheeded = [f"--{flag}" for flag in flags(server.extra_args) if flag in LEFT_OUT]
    if unheeded:
        yield f"{name}: {', '.join(unheeded)} changes its memory. These figures do not include that."
    if "vision_config" in config:
        yield f"{name}: these figures do not include the activations of its vision encoder."


def _idle(result: Plan) -> Iterator[str]:
    """The notes on shares that are larger than needed while another server could use the memory."""
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
