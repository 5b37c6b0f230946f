"""Finds the smallest changes with which all servers fit. Each suggestion is verified with a plan of all servers.

The order: a change of one field; a change of one field with new GPU shares (`shares.py`); changes of several fields;
more GPUs; a larger card.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..servers import Server
from .budget import Models, evaluate, gib
from .figures import Change, Plan, ServerPlan, Suggestion
from .gpus import MIB, NAMED, Gpu
from .shares import MOST, allocate

_STEP_TOKENS = 1024
_FEWEST_TOKENS = 1024
"""The smallest useful `max_model_len`."""
_FEWEST_AMONG_OTHERS = 4096
"""The same if other fields change too."""
_FEWER_SEQUENCES = (128, 64, 32, 16)
_FEWER_TOKENS = 2048
_MOST_GPUS = 8

Fields: TypeAlias = Mapping[str, Any]
Changes: TypeAlias = Mapping[str, Fields]
"""The new values of fields, by server."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Servers that do not all fit, and the server whose fields change."""

    servers: Sequence[Server]
    gpus: Sequence[Gpu]
    models: Models
    name: str
    base: Changes
    """The changes that always apply."""
    allocating: bool = False
    """Whether the shares may be allocated again."""

    def plan(self, changes: Changes) -> Plan:
        """The plan with changed fields."""
        servers = [_changed(server, changes.get(server.name, {})) for server in self.servers]
        return evaluate(servers, self.gpus, self.models)

    def with_fields(self, fields: Fields) -> Changes | None:
        """All changes that follow from new values of the server's fields; None if the servers still do not fit."""
        changes = _merged(self.base, {self.name: fields})
        plan = self.plan(changes)
        if plan.fits:
            return changes
        for tight in (False, True) if self.allocating else ():
            with_shares = _merged(changes, {name: _share(share) for name, share in allocate(plan, tight=tight).items()})
            if self.plan(with_shares).fits:
                return with_shares
        return None


def suggest(servers: Sequence[Server], plan: Plan, gpus: Sequence[Gpu], models: Models) -> tuple[Suggestion, ...]:
    """The suggestions with which all servers fit, the smallest changes first."""
    parts = _parts(plan)
    cases = [_case(servers, part, gpus, models) for part in parts]
    if len(cases) > 1:  # independent GPUs: combine the first suggestion of each
        firsts = [next(_on_these(case, part), None) for case, part in zip(cases, parts, strict=True)]
        together = [_suggestion(cases[0], _merged(*filter(None, firsts)))] if all(firsts) else []
        return (*together, *_larger_card(servers, gpus, models))
    [case], [part] = cases, parts
    shares = replace(case, allocating=True).with_fields({}) if len(part) > 1 else None
    if shares:  # new shares cost nothing
        return (_suggestion(case, shares),)
    here = (_suggestion(case, changes) for changes in _on_these(case, part))
    return (*here, *_on_another_gpu(case, part), *_more_gpus(case, part), *_larger_card(servers, gpus, models))


def _parts(plan: Plan) -> list[list[ServerPlan]]:
    """The groups of servers that share GPUs and of which a server does not fit or a GPU is too full."""
    parts: list[list[ServerPlan]] = []
    for server in plan.servers:
        joined = [part for part in parts if any(set(server.gpus) & set(other.gpus) for other in part)]
        parts = [part for part in parts if part not in joined]
        parts.append([*(other for part in joined for other in part), server])
    full = {gpu.index for gpu in plan.gpus if gpu.problems}
    return [part for part in parts if any(server.problems or full & set(server.gpus) for server in part)]


def _case(servers: Sequence[Server], part: Sequence[ServerPlan], gpus: Sequence[Gpu], models: Models) -> _Case:
    """The case of a group: its servers, and the server that needs most."""
    names = [server.name for server in part]
    return _Case([server for server in servers if server.name in names], gpus, models, _neediest(part).name, {})


def _neediest(servers: Sequence[ServerPlan]) -> ServerPlan:
    return max(servers, key=lambda server: server.needs)


def _on_these(case: _Case, part: Sequence[ServerPlan]) -> Iterator[Changes]:
    """The changes without another GPU: a field of one server; otherwise a field and the shares, or several fields."""
    small = [changes for server in part for changes in _single(replace(case, name=server.name), server)]
    allocating, neediest = replace(case, allocating=True), _neediest(part)
    small = small or [*_single(allocating, neediest, _FEWEST_AMONG_OTHERS)]
    yield from small
    if not small and (several := _several(allocating, neediest)):
        yield several


def _single(case: _Case, server: ServerPlan, fewest: int = _FEWEST_TOKENS) -> Iterator[Changes]:
    """The changes of one field: shorter requests, a larger share, a smaller cache, smaller steps."""
    options = server.options
    ways = [_shorter(case, {}, server, fewest)]
    if not case.allocating:
        ways.append(_larger_share(case, server))
    if options.kv_cache_dtype not in ("fp8", "nvfp4") and not options.pooling:
        ways.append(case.with_fields({"kv_cache_dtype": "fp8"}))
    if options.max_num_batched_tokens > _FEWER_TOKENS and not options.pooling:
        ways.append(case.with_fields({"max_num_batched_tokens": _FEWER_TOKENS}))
    ways.append(_fewer_sequences(case, server))
    yield from filter(None, ways)


def _shorter(case: _Case, fields: Fields, server: ServerPlan, fewest: int) -> Changes | None:
    """The change to the longest `max_model_len` that fits, in steps of 1,024 tokens."""

    def with_steps(steps: int) -> Changes | None:
        return case.with_fields({**fields, "max_model_len": steps * _STEP_TOKENS})

    low, high = fewest // _STEP_TOKENS, (server.options.max_model_len - 1) // _STEP_TOKENS
    best = with_steps(low) if low <= high else None
    while best and low < high:
        middle = (low + high + 1) // 2
        changes = with_steps(middle)
        low, high, best = (middle, high, changes) if changes else (low, middle - 1, best)
    return best


def _larger_share(case: _Case, server: ServerPlan) -> Changes | None:
    first = math.floor(server.options.gpu_memory_utilization * 100) + 1
    shares = (share / 100 for share in range(first, round(MOST * 100) + 1))
    return next(filter(None, (case.with_fields(_share(share)) for share in shares)), None)


def _fewer_sequences(case: _Case, server: ServerPlan) -> Changes | None:
    if server.options.pooling:
        return None
    fewer = (count for count in _FEWER_SEQUENCES if count < server.options.max_num_seqs)
    return next(filter(None, (case.with_fields({"max_num_seqs": count}) for count in fewer)), None)


def _several(case: _Case, server: ServerPlan) -> Changes | None:
    """The changes of several fields, with the longest requests that fit."""
    if server.options.pooling:
        return case.with_fields({})
    for fields in (
        {},
        {"kv_cache_dtype": "fp8"},
        {"kv_cache_dtype": "fp8", "max_num_seqs": 64, "max_num_batched_tokens": _FEWER_TOKENS},
        {"kv_cache_dtype": "fp8", "max_num_seqs": 16, "max_num_batched_tokens": 1024},
    ):
        new = {field: value for field, value in fields.items() if getattr(server.options, field) != value}
        if changes := case.with_fields(new) or _shorter(case, new, server, _FEWEST_AMONG_OTHERS):
            return changes
    return None


def _more_gpus(case: _Case, part: Sequence[ServerPlan]) -> Iterator[Suggestion]:
    """The suggestion to split the largest model among more GPUs of the same kind."""
    server = _neediest(part)
    stages, size = server.options.pipeline_parallel_size, server.options.tensor_parallel_size
    if len([gpu for gpu in case.gpus if gpu.index in server.gpus]) >= server.options.gpus:
        size *= 2
    while size * stages <= _MOST_GPUS:
        count = size * stages
        more = replace(case, gpus=_at_least(case.gpus, count, server), allocating=True)
        sizes = {} if size == server.options.tensor_parallel_size else {"tensor_parallel_size": size}
        if changes := more.with_fields({**sizes, "gpus": list(range(count))}):
            yield _suggestion(more, changes, len(case.gpus))
            return
        size *= 2


def _on_another_gpu(case: _Case, part: Sequence[ServerPlan]) -> Iterator[Suggestion]:
    """The suggestion to move one server, the smallest that helps, to an unused GPU."""
    taken = {index for server in case.plan({}).servers for index in server.gpus}
    free = next((gpu.index for gpu in case.gpus if gpu.index not in taken), len(case.gpus))
    for moved in sorted(part, key=lambda server: server.needs)[: len(part) - 1]:
        if moved.options.gpus > 1:
            continue
        rest = _neediest([server for server in part if server is not moved])
        gpus, base = _at_least(case.gpus, free + 1, moved), {moved.name: {"gpus": [free]}}
        more = replace(case, gpus=gpus, name=rest.name, base=base, allocating=True)
        ways = (more.with_fields({}), *_single(more, rest, _FEWEST_AMONG_OTHERS), _several(more, rest))
        if changes := next(filter(None, ways), None):
            yield _suggestion(more, changes, len(case.gpus))
            return


def _at_least(gpus: Sequence[Gpu], count: int, server: ServerPlan) -> Sequence[Gpu]:
    """The GPUs, extended to this count by GPUs like the server's."""
    base = next((gpu for gpu in gpus if gpu.index in server.gpus), gpus[0])
    return [*gpus, *(replace(base, index=index) for index in range(len(gpus), count))]


def _larger_card(servers: Sequence[Server], gpus: Sequence[Gpu], models: Models) -> Iterator[Suggestion]:
    """The smallest known card on which all servers fit unchanged."""
    least = min(gpu.memory for gpu in gpus)
    for name, mebibytes in sorted(NAMED.items(), key=lambda item: item[1]):
        cards = [replace(gpu, name=name, memory=mebibytes * MIB) for gpu in gpus]
        if mebibytes * MIB > least and evaluate(servers, cards, models).fits:
            where = "a GPU" if len(gpus) == 1 else "GPUs"
            yield Suggestion((), f"Unchanged, it fits on {where} with {gib(mebibytes * MIB)}, such as the {name}.")
            return


def _share(share: float) -> Fields:
    return {"gpu_memory_utilization": share}


def _changed(server: Server, fields: Fields) -> Server:
    return Server.model_validate({**server.model_dump(), **fields}) if fields else server


def _merged(*several: Changes) -> Changes:
    """All changes. Later changes take precedence."""
    names = dict.fromkeys(name for changes in several for name in changes)
    together = {name: {k: v for one in several for k, v in one.get(name, {}).items()} for name in names}
    return {name: fields for name, fields in together.items() if fields}


def _suggestion(case: _Case, changes: Changes, gpus_there: int | None = None) -> Suggestion:
    """The suggestion with its text. `gpus_there`: the number of existing GPUs, if the case has more."""
    listed = tuple(
        Change(name, field, json.dumps(new)) for name, fields in changes.items() for field, new in fields.items()
    )
    written = "; ".join(
        f"{name}: " + ", ".join(f"{change.field} = {change.value}" for change in listed if change.server == name)
        for name in changes
    )
    more = gpus_there is not None and len(case.gpus) > gpus_there
    return Suggestion(listed, f"On {len(case.gpus)} such GPUs, {written}." if more else f"{written}.")
