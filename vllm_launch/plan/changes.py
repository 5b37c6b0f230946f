"""The smallest changes with which a server that does not fit would fit. Each is tried on the plan before it is told."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..servers import Server
from .budget import Models, evaluate, gib
from .figures import Change, Plan, ServerPlan, Suggestion
from .gpus import MIB, NAMED, Gpu
from .options import UTILIZATION

_FEWEST_TOKENS = 1024
"""A `max_model_len` below this is no help."""
_MOST = 0.97
"""A share above this leaves too little for the driver and for what grows while a server runs."""
_MARGIN = 1.1
"""Of what a server needs by the estimates, what it is given where there is a choice."""
_FEWER_SEQUENCES = (128, 64, 32, 16)
_FEWER_TOKENS = 2048
_MOST_GPUS = 8


@dataclass(frozen=True, slots=True)
class _Case:
    """A plan that does not fit, and one server in it."""

    servers: Sequence[Server]
    gpus: Sequence[Gpu]
    models: Models
    name: str

    @property
    def server(self) -> Server:
        return next(server for server in self.servers if server.name == self.name)

    def with_change(self, change: Mapping[str, Any], gpus: Sequence[Gpu] | None = None) -> Plan:
        """The plan with the server's fields changed."""
        changed = Server.model_validate({**self.server.model_dump(), **change})
        servers = [changed if server.name == self.name else server for server in self.servers]
        return evaluate(servers, gpus or self.gpus, self.models)

    def fits(self, change: Mapping[str, Any], gpus: Sequence[Gpu] | None = None) -> bool:
        """Whether the server would start with that, next to the others."""
        plan = self.with_change(change, gpus)
        server = plan.server(self.name)
        return server.fits and not any(gpu.problems for gpu in plan.gpus if gpu.index in server.gpus)


def suggest(servers: Sequence[Server], plan: Plan, gpus: Sequence[Gpu], models: Models) -> tuple[Suggestion, ...]:
    """What would help each server that does not fit, the smallest changes first; and each GPU that is too full."""
    found: list[Suggestion] = []
    for server in plan.servers:
        if not server.fits:
            found.extend(_for_server(_Case(servers, gpus, models, server.name), server))
    if not any(server.problems for server in plan.servers):
        found.extend(_for_gpus(servers, plan, gpus, models))
    return tuple(found)


def _for_server(case: _Case, server: ServerPlan) -> Iterator[Suggestion]:
    one = [change for change in _single(case, server) if change is not None]
    yield from (_told(case, change) for change in one)
    if not one:
        together = _together(case, server)
        if together:
            yield _told(case, together)
    yield from _more_gpus(case, server)
    yield from _alone(case, server)
    yield from _larger_card(case)


def _single(case: _Case, server: ServerPlan) -> Iterator[dict[str, Any] | None]:
    """One field each: shorter requests, a larger share, a smaller cache, smaller steps."""
    yield _shorter(case, {}, server)
    yield _larger_share(case, server)
    if server.options.kv_cache_dtype not in ("fp8", "nvfp4"):
        yield _if_fits(case, {"kv_cache_dtype": "fp8"})
    if server.options.max_num_batched_tokens > _FEWER_TOKENS and not server.options.pooling:
        yield _if_fits(case, {"max_num_batched_tokens": _FEWER_TOKENS})
    yield _fewer_sequences(case, server)


def _if_fits(case: _Case, change: dict[str, Any]) -> dict[str, Any] | None:
    return change if case.fits(change) else None


def _shorter(case: _Case, change: Mapping[str, Any], server: ServerPlan) -> dict[str, Any] | None:
    """The longest `max_model_len` with which it starts, in steps of 1,024 tokens."""
    steps = (server.options.max_model_len - 1) // _FEWEST_TOKENS
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        fits = case.fits({**change, "max_model_len": middle * _FEWEST_TOKENS})
        low, high = (middle, high) if fits else (low, middle - 1)
    return {**change, "max_model_len": low * _FEWEST_TOKENS} if low else None


def _larger_share(case: _Case, server: ServerPlan) -> dict[str, Any] | None:
    first = math.floor(server.options.gpu_memory_utilization * 100) + 1
    shares = (round(share / 100, 2) for share in range(first, round(_MOST * 100) + 1))
    return next((change for share in shares if (change := _if_fits(case, {"gpu_memory_utilization": share}))), None)


def _fewer_sequences(case: _Case, server: ServerPlan) -> dict[str, Any] | None:
    if server.options.pooling:
        return None
    fewer = (count for count in _FEWER_SEQUENCES if count < server.options.max_num_seqs)
    return next((change for count in fewer if (change := _if_fits(case, {"max_num_seqs": count}))), None)


def _together(case: _Case, server: ServerPlan) -> dict[str, Any] | None:
    """Several fields at once: all that the GPU still has, and then the longest requests that fit."""
    share = _largest_share(case, server)
    base = {"gpu_memory_utilization": share} if share > server.options.gpu_memory_utilization else {}
    if server.options.pooling:
        return None
    for change in (
        base,
        {**base, "kv_cache_dtype": "fp8"},
        {**base, "kv_cache_dtype": "fp8", "max_num_seqs": 64, "max_num_batched_tokens": _FEWER_TOKENS},
        {**base, "kv_cache_dtype": "fp8", "max_num_seqs": 16, "max_num_batched_tokens": 1024},
    ):
        if change and case.fits(change):
            return change
        shorter = _shorter(case, change, server)
        if shorter and shorter["max_model_len"] >= 4 * _FEWEST_TOKENS:
            return shorter
    return None


def _largest_share(case: _Case, server: ServerPlan) -> float:
    """The largest share that is left to it beside the others, in hundredths."""
    plan = evaluate(case.servers, case.gpus, case.models)
    here = [gpu for gpu in plan.gpus if gpu.index in server.gpus]
    free = min((gpu.free / gpu.total for gpu in here), default=0.0)
    return min(math.floor((server.options.gpu_memory_utilization + free) * 100) / 100, _MOST)


def _more_gpus(case: _Case, server: ServerPlan) -> Iterator[Suggestion]:
    """The model split among more GPUs of the same kind."""
    base = next((gpu for gpu in case.gpus if gpu.index in server.gpus), case.gpus[0])
    size = server.options.tensor_parallel_size * 2
    while size * server.options.pipeline_parallel_size <= _MOST_GPUS:
        count = size * server.options.pipeline_parallel_size
        gpus = [replace(base, index=index) for index in range(max(count, len(case.gpus)))]
        if case.fits({"tensor_parallel_size": size, "gpus": tuple(range(count))}, gpus):
            changes = _changes(case, {"tensor_parallel_size": size, "gpus": list(range(count))})
            yield Suggestion(changes, f"{case.name}: split it among {count} such GPUs, {_written(changes)}.")
            return
        size *= 2


def _alone(case: _Case, server: ServerPlan) -> Iterator[Suggestion]:
    """The GPU to itself, with vLLM's own share."""
    if not any(set(server.gpus) & set(_indexes(other, case.gpus)) for other in case.servers if other.name != case.name):
        return
    own = _Case([case.server], case.gpus, case.models, case.name)
    share = {"gpu_memory_utilization": UTILIZATION}
    smaller = {**share, "kv_cache_dtype": "fp8"}
    change = next((change for change in (share, smaller) if own.fits(change)), None) or _shorter(own, share, server)
    if change:
        written = _written(_changes(case, change))
        text = f"{case.name}: give it the GPU alone, {written}; the others go to another GPU or to the CPU."
        yield Suggestion((), text)


def _larger_card(case: _Case) -> Iterator[Suggestion]:
    """The smallest known card on which all of it fits as it is."""
    for name, mebibytes in sorted(NAMED.items(), key=lambda item: item[1]):
        gpus = [replace(gpu, name=name, memory=mebibytes * MIB) for gpu in case.gpus]
        if evaluate(case.servers, gpus, case.models).fits:
            yield Suggestion((), f"Unchanged, it fits on a GPU with {gib(mebibytes * MIB)}, as the {name} has.")
            return


def _for_gpus(servers: Sequence[Server], plan: Plan, gpus: Sequence[Gpu], models: Models) -> Iterator[Suggestion]:
    """Shares with which all servers of a GPU have room: what they need, and the rest to the one with a KV cache."""
    for gpu in plan.gpus:
        if gpu.problems:
            yield from _shares(gpu.index, servers, plan, gpus, models)


def _shares(
    index: int, servers: Sequence[Server], plan: Plan, gpus: Sequence[Gpu], models: Models
) -> Iterator[Suggestion]:
    shares = split(plan, index)
    changed = [
        server.model_copy(update={"gpu_memory_utilization": shares[server.name]}) if server.name in shares else server
        for server in servers
    ]
    if evaluate(changed, gpus, models).fits:
        written = ", ".join(f"{share:.2f} for {name}" for name, share in shares.items())
        changes = tuple(Change(name, "gpu_memory_utilization", f"{share:.2f}") for name, share in shares.items())
        yield Suggestion(changes, f"GPU {index}: gpu_memory_utilization {written}.")
        return
    needed = sum(server.needs for server in plan.servers if index in server.gpus)
    yield Suggestion((), f"Put one of them elsewhere: together they need {gib(needed)} on GPU {index}.")


def split(plan: Plan, index: int) -> dict[str, float]:
    """`gpu_memory_utilization` for each server of a GPU: to each what it needs, and the rest to the neediest.

    The rest goes to the server whose KV cache is the largest to fill; 2 % of the GPU stay free.
    """
    gpu = next(gpu for gpu in plan.gpus if gpu.index == index)
    here = [server for server in plan.servers if index in server.gpus]
    shares = {server.name: math.ceil(server.needs * _MARGIN / gpu.total * 100) / 100 for server in here}
    caching = [server for server in here if server.needs > server.fixed]
    if caching:
        first = max(caching, key=lambda server: server.needs)
        others = sum(share for name, share in shares.items() if name != first.name)
        rest = math.floor((1 - gpu.contexts / gpu.total - 0.02 - others) * 100) / 100
        shares[first.name] = max(shares[first.name], min(rest, _MOST))
    return shares


def _indexes(server: Server, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    return tuple(gpu.index for gpu in gpus) if server.gpus == "all" else server.gpus


def _told(case: _Case, change: Mapping[str, Any]) -> Suggestion:
    changes = _changes(case, change)
    return Suggestion(changes, f"{case.name}: {_written(changes)}.")


def _changes(case: _Case, change: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(Change(case.name, field, json.dumps(value)) for field, value in change.items())


def _written(changes: Sequence[Change]) -> str:
    return ", ".join(f"{change.field} = {change.value}" for change in changes)
