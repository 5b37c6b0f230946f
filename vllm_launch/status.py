"""The state of servers, as `vllm-launch status` shows it: a table for people, JSON for scripts.

`look` combines three sources: the runtime (whether the process runs), the server (whether it answers), and the log
(what the server does, or why it exited).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import httpx
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from . import causes, logs, ready
from .runtimes.base import Instance, Runtime, RuntimeName

State: TypeAlias = Literal["ready", "starting", "unhealthy", "unexpected-server", "restarting", "exited"]
"""starting: the server has not answered yet. unhealthy: it has stopped answering, or reports an error.
unexpected-server: another server answers at its address. restarting: it has exited, and its runtime restarts it."""

_COLORS: dict[State, str] = {"ready": "green", "starting": "yellow", "restarting": "yellow"}
_LOG_LINES = 2000
_HEADINGS = ("server", "state", "address", "runtime", "id")
_GAP = 2
_MODELS_WIDTH = 12
"""The minimum width of the column of models. Long names are wrapped."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one server."""

    name: str
    runtime: RuntimeName
    state: State
    reason: str
    """Why the server is not ready; empty if it is."""
    url: str
    """The base URL, without `/v1`."""
    models: tuple[str, ...]
    """The model names that clients use."""
    id: str
    """The id of the container (12 characters), or of the process that leads the server's group."""
    started_at: float
    """Seconds since 1970."""
    restarts: int
    """How often the runtime has restarted the server."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "models": list(self.models)}


def look(runtime: Runtime, instance: Instance, http: httpx.Client) -> Status:
    """The current state. Raises `LaunchError` if the log cannot be read."""
    state, reason = _state(runtime, instance, http)
    server = instance.server
    return Status(
        name=server.name,
        runtime=instance.runtime,
        state=state,
        reason=reason,
        url=server.base_url,
        models=server.served,
        id=instance.id,
        started_at=instance.started_at,
        restarts=instance.restarts,
    )


def view(statuses: Sequence[Status], width: int) -> RenderableType:
    """A table with a row for each server; on a narrow terminal, a paragraph for each."""
    columns = zip(_HEADINGS, *(_cells(status) for status in statuses), strict=True)
    needed = sum(max(map(len, column)) + _GAP for column in columns) + _MODELS_WIDTH
    return _table(statuses) if needed <= width else _paragraphs(statuses)


def _cells(status: Status) -> tuple[str, ...]:
    """The cells of the row, without the models."""
    return status.name, status.state, status.url, status.runtime, status.id


def _table(statuses: Sequence[Status]) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for heading in _HEADINGS:
        made.add_column(heading, no_wrap=True)
    made.add_column("models", overflow="fold")
    for status in statuses:
        name, _, *others = map(escape, (*_cells(status), ", ".join(status.models)))
        made.add_row(name, _colored(status.state), *others)
    return made


def _paragraphs(statuses: Sequence[Status]) -> Group:
    lines = []
    for status in statuses:
        lines.append(f"[bold]{escape(status.name)}[/] {_colored(status.state)}")
        lines += [f"  {escape(text)}" for text in (status.url, f"{status.runtime} {status.id}", *status.models)]
    return Group(*(Text.from_markup(line) for line in lines))


def _colored(state: State) -> str:
    return f"[{_COLORS.get(state, 'red')}]{state}[/]"


def _state(runtime: Runtime, instance: Instance, http: httpx.Client) -> tuple[State, str]:
    """The state, and why the server is not ready."""
    if instance.state != "running":
        log = runtime.log(instance, _LOG_LINES)
        return instance.state, f"ended {instance.ended}{_again(instance)}{_cause(log, instance.ended)}"
    answer = ready.ask(instance.server, http)
    if answer.readiness != "unreachable":
        return answer.readiness, answer.reason
    if instance.unhealthy:
        return "unhealthy", f"{answer.reason}; {instance.unhealthy}"
    log = runtime.log(instance, _LOG_LINES)
    earlier = _cause(log, "") if instance.restarts else ""
    return "starting", f"{logs.activity(log)}{_again(instance)}{earlier}"


def _again(instance: Instance) -> str:
    if not instance.restarts:
        return ""
    return "; restarted once" if instance.restarts == 1 else f"; restarted {instance.restarts} times"


def _cause(log: str, ended: str) -> str:
    cause = causes.explain(log, ended)
    return f". {cause}" if cause else ""
