"""Renders a plan as text and tables, with rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .budget import gib
from .figures import GpuPlan, Plan, ServerPlan

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_WEIGHTS = {"files": "from its files", "index": "from its files' index", "config": "computed"}


def render(plan: Plan) -> Group:
    """The rendered plan: a table for each server, a line for each GPU, then problems, suggestions and notes."""
    from rich.console import Group

    return Group(*_parts(plan))


def _parts(plan: Plan) -> Iterator[RenderableType]:
    from rich.text import Text

    for server in plan.servers:
        yield _server(server)
    for gpu in plan.gpus:
        if gpu.shares:
            yield Text(_gpu(gpu))
    yield Text("")
    if plan.fits:
        yield Text("It fits.", style="bold green")
    for problem in plan.problems:
        yield Text("Does not fit. " + problem, style="bold red")
    if not plan.fits and not plan.suggestions:
        yield Text("No change that was tried makes it fit: other settings, more GPUs, a larger card.")
    if plan.suggestions:
        yield Text("Any one of these makes it fit:" if len(plan.suggestions) > 1 else "This makes it fit:")
    for suggestion in plan.suggestions:
        yield Text(f"  - {suggestion.text}")
    for note in plan.notes:
        yield Text(f"Note: {note}", style="dim")


def _server(server: ServerPlan) -> Table:
    from rich.table import Table

    table = Table(title=_title(server), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in rows(server):
        table.add_row(*row)
    return table


def _title(server: ServerPlan) -> str:
    where = ", ".join(map(str, server.gpus))
    return f"{server.name}: {server.model} on GPU {where}" + (", each:" if len(server.gpus) > 1 else "")


def rows(server: ServerPlan) -> Iterator[tuple[str, str, str]]:
    """The parts of a server's share: name, size, explanation."""
    options = server.options
    fixed = "the sum of the rows below: kv_cache_memory_bytes is set, so the share is ignored"
    share = fixed if options.kv_cache_memory_bytes else f"gpu_memory_utilization {options.gpu_memory_utilization:g}"
    yield "share", gib(server.budget), share
    yield "weights", gib(server.weights), _WEIGHTS[server.weights_source]
    step = f"{options.max_num_batched_tokens:,} tokens or {options.max_num_seqs:,} requests in a step"
    yield "activation", gib(server.activation), f"estimate: {step}"
    yield "CUDA graphs", gib(server.cuda_graphs), "none: enforce_eager" if options.enforce_eager else "estimate"
    yield "other", gib(server.non_torch), "estimate: memory outside PyTorch"
    cache = server.kv_cache
    if server.kv_available < 0:
        yield "too little by", gib(-server.kv_available), "the share is too small"
        return
    if server.needs == server.fixed:
        yield "KV cache", "none", f"the model has none; {gib(server.kv_available)} of the share stay unused"
        return
    yield "KV cache", gib(server.kv_available), f"the rest, as {options.kv_cache_dtype}"
    if cache is None:
        return
    later = "" if cache.late_token_bytes == cache.token_bytes else f", {cache.late_token_bytes:,} beyond the window"
    yield "per token", f"{cache.token_bytes:,} bytes", f"in all layers{later}"
    yield "per request", gib(cache.request_bytes), f"of max_model_len {options.max_model_len:,} tokens, at most"
    yield "KV cache size", f"{cache.tokens:,} tokens", f"as vLLM logs it; concurrency {cache.concurrency:.2f}x"
    for tokens, count in cache.sequences:
        yield (
            "",
            f"{count:,} request" + "s" * (count != 1),
            f"of {tokens:,} tokens at once" + _limit(count, options.max_num_seqs),
        )


def _limit(count: int, most: int) -> str:
    return f"; max_num_seqs allows {most:,}" if count > most else ""


def _gpu(gpu: GpuPlan) -> str:
    shares = ", ".join(f"{name} {gib(share)}" for name, share in gpu.shares)
    left = f"{gib(gpu.free)} free" if gpu.free >= 0 else f"{gib(-gpu.free)} too much"
    return f"GPU {gpu.index} ({gpu.name}), {gib(gpu.total)}: {shares}, CUDA contexts {gib(gpu.contexts)}; {left}"
