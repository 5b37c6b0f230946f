"""The command top: live figures of servers."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated

import httpx
import typer
from rich.live import Live

from .. import top
from ..runtimes import LaunchError, Runtime
from .app import CommandContext, JsonOption, RuntimeOption, app, command_context, output, print_json

_INTERVAL_S = 2.0
_SHORTEST_S, _LONGEST_S = 0.2, 3600.0


@app.command("top")
def top_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Servers of the file or presets. Default: all running servers."),
    ] = None,
    urls: Annotated[
        list[str] | None, typer.Option("--url", metavar="URL", help="The URL of any server; repeatable.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print once: figures since the start, or of --interval if it is set.")
    ] = False,
    interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help=f"Time between updates. Default: {_INTERVAL_S:g}.")
    ] = None,
    as_json: JsonOption = False,
    runtime: RuntimeOption = None,
) -> None:
    """Show live figures until Ctrl-C: load, KV cache, tokens per second, token latencies, results of requests.

    TTFT is the time to the first token, ITL the time between tokens; p50 and p95 are percentiles of the last interval.
    Requests done, errors (HTTP 4xx, 5xx) and preemptions are counted since the server's start.
    """
    if interval is not None and not _SHORTEST_S <= interval <= _LONGEST_S:
        raise typer.BadParameter(f"{interval:g}: from {_SHORTEST_S:g} to {_LONGEST_S:g}", param_hint="--interval")
    addresses = [_address(url) for url in urls or ()]
    runtimes = [] if addresses and not names else command_context(context).runtimes(runtime)
    servers = _Servers(command_context(context), names or (), addresses, runtimes)
    with contextlib.closing(top.looks(servers, interval or _INTERVAL_S)) as looks:
        if once:
            rows = next(looks)
            _show_once(next(looks) if interval else rows, as_json)
            return
        with contextlib.suppress(KeyboardInterrupt):
            _show_all(looks, as_json)


class _Servers:
    """The servers to watch: those that run or are named, and the URLs. They are determined at each look."""

    def __init__(
        self,
        context: CommandContext,
        names: Sequence[str],
        addresses: Sequence[top.Target],
        runtimes: Sequence[Runtime],
    ) -> None:
        self._context = context
        self._names = names
        self._addresses = addresses
        self._runtimes = runtimes
        self._seen: dict[str, list[top.Target]] = {}

    def __call__(self) -> list[top.Target]:
        found = {target.name: target for runtime in self._runtimes for target in self._of(runtime)}
        chosen = [found.get(name) or self._described(name) for name in dict.fromkeys(self._names)]
        return [*(chosen or found.values()), *self._addresses]

    def _of(self, runtime: Runtime) -> list[top.Target]:
        try:
            self._seen[runtime.name] = [top.Target.of(instance) for instance in runtime.instances()]
        except LaunchError:
            if runtime.name not in self._seen:
                raise
            # The engine is unreachable. The servers may still run, so they are requested.
            return [replace(target, process=None, ended="") for target in self._seen[runtime.name]]
        return self._seen[runtime.name]

    def _described(self, name: str) -> top.Target:
        [server] = self._context.servers([name])
        return top.Target(server.name, server.base_url)


def _address(text: str) -> top.Target:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as problem:
        raise typer.BadParameter(f"{text!r}: {problem}", param_hint="--url") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"{text!r}: it must be like http://127.0.0.1:8001", param_hint="--url")
    path = url.path.rstrip("/").removesuffix("/metrics").removesuffix("/v1")
    return top.Target(url.netloc.decode(), f"{url.scheme}://{url.netloc.decode()}{path}")


def _show_once(rows: list[top.Row], as_json: bool) -> None:
    if as_json:
        print_json(top.to_json(rows, time.time()))
        return
    _require_some(rows)
    console = output()
    console.print(top.view(rows, console.width))


def _show_all(looks: Iterator[list[top.Row]], as_json: bool) -> None:
    if as_json:
        for rows in looks:
            print(json.dumps(top.to_json(rows, time.time()), ensure_ascii=False), flush=True)
        return
    first = next(looks)
    _require_some(first)
    console = output()
    if not console.is_terminal:
        for rows in chain([first], looks):
            console.print(top.view(rows, console.width), "")
            sys.stdout.flush()
        return
    with Live(top.view(first, console.width), console=console, auto_refresh=False) as live:
        for rows in looks:
            live.update(top.view(rows, console.width), refresh=True)


def _require_some(rows: list[top.Row]) -> None:
    if not rows:
        raise LaunchError(
            "No server is there. `vllm-launch up` starts some. To watch a server that another program started, pass "
            "its name (vllm-launch top vllm-llm) or its URL (vllm-launch top --url http://127.0.0.1:8001)."
        )
