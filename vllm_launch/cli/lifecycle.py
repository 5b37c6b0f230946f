"""The commands up, down, status, logs and rollback."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from queue import Queue
from typing import Annotated

import typer
from rich.markup import escape

from .. import ready, rollback, service, status, up
from ..progress import Board, Row, board, step
from ..runtimes import Instance, LaunchError, Runtime
from ..servers import Server
from .app import (
    JsonOption,
    Names,
    PythonOption,
    RuntimeOption,
    StartRuntime,
    app,
    command_context,
    has_gpu,
    output,
    print_json,
    runtime_name,
    warn,
)

_LINES_AHEAD = 1000
"""The maximum number of log lines that are read but not yet printed."""


@app.command("up")
def up_command(
    context: typer.Context,
    names: Names = None,
    runtime: StartRuntime = None,
    python: PythonOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the servers answer.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Replace running servers that differ.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds until a server must be ready.")] = up.READY_TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Start servers and wait until they answer. Servers that run as described keep running.

    Ready servers outlive this command. After Ctrl-C, an error or a kill, servers that are not ready are stopped.
    """
    servers = command_context(context).servers(names)
    _warn_of_exposed(servers)
    chosen = command_context(context).runtime(runtime, python)
    options: up.Options = {"replacing": replace, "timeout_s": timeout, "waiting": wait}
    try:
        if as_json:
            brought = up.up(chosen, servers, lambda _: None, **options)
            print_json([each.to_json() for each in _looks((chosen, instance) for instance in brought)])
            return
        with board() as rows:
            up.up(chosen, servers, _Shown(rows), **options)
    except KeyboardInterrupt:
        print("\nvllm-launch: interrupted; servers that were still starting have been stopped.", file=sys.stderr)
        raise typer.Exit(130) from None
    console = output()
    if wait:
        console.print('Variables for a service: [bold]eval "$(vllm-launch env)"[/]')
    else:
        console.print("They are starting; [bold]vllm-launch status[/] shows when they are ready.")


@app.command("down")
def down_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Default: all running servers.")] = None,
    runtime: RuntimeOption = None,
    grace: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds until a server is killed. Default: its shutdown_timeout plus 15."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stop servers. Volumes with downloaded models are kept."""
    report: Callable[[str], None] = (lambda _: None) if as_json else print
    stopped = [
        name
        for each in command_context(context).runtimes(runtime)
        for name in up.down(each, names or (), report, grace)
    ]
    missing = [name for name in names or () if name not in stopped]
    if as_json:
        print_json(stopped)
    elif not stopped and not missing:
        print("No server is running.")
    if missing:
        raise LaunchError(f"There is no server {', '.join(missing)}; `vllm-launch status` lists the servers.")


@app.command("status")
def status_command(context: typer.Context, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of the servers. The exit status is 1 if a server is not ready."""
    found = _looks(
        (each, instance) for each in command_context(context).runtimes(runtime) for instance in each.instances()
    )
    if as_json:
        print_json([each.to_json() for each in found])
    elif not found:
        print("No server is there. `vllm-launch up` starts some.")
    else:
        console = output()
        console.print(status.view(found, console.width))
        for each in found:
            if each.reason:
                print(f"{each.name}: {each.reason}")
    if any(each.state != "ready" for each in found):
        raise typer.Exit(1)


@app.command("logs")
def logs_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Default: all servers.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Print only the last N lines.")] = None,
    runtime: RuntimeOption = None,
) -> None:
    """Print the logs of the servers."""
    found = _named(command_context(context).runtimes(runtime), names)
    label = max(len(instance.name) for _, instance in found) if len(found) > 1 else 0
    if follow:
        _follow_all(found, label, lines)
        return
    for each, instance in found:
        for line in each.log(instance, lines).splitlines():
            _print_line(instance.name, label, line)


@app.command("rollback")
def rollback_command(
    context: typer.Context,
    runtime: StartRuntime = None,
    pull: Annotated[bool, typer.Option("--pull", help="Pull the models that Ollama does not have.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds until Ollama must answer.")] = rollback.READY_TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Start Ollama, wait until it answers, and print the variables for a service. vLLM keeps running."""
    models = service.model_maps(os.environ)[-1]
    report: Callable[[str], None] = (lambda _: None) if as_json else print
    chosen = runtime_name(runtime, command_context(context).readable())
    result = rollback.rollback(models, chosen, report, gpu=has_gpu(), timeout_s=timeout)
    missing = result.missing
    if pull:
        for name in missing:
            _pull(name, shown=not as_json)
        missing = ()
    if as_json:
        values = {"url": result.url, "version": result.version, "started": result.started, "missing": list(missing)}
        print_json({**values, "variables": dict(result.variables())})
        return
    print(f"Ollama {result.version} answers at {result.url}.")
    if missing:
        print(f"It does not have {', '.join(missing)}. To pull: vllm-launch rollback --pull, or ollama pull NAME")
    print("Set these variables for the service and restart it:")
    for name, value in result.variables().items():
        print(f"  {name}={value}")
    print("When no service uses vLLM any more: vllm-launch down")


def _pull(model: str, *, shown: bool) -> None:
    if not shown:
        rollback.pull(model, lambda _: None)
        return
    with step(f"Pulling {model}") as row:
        rollback.pull(model, row.note)
        row.done()


def _warn_of_exposed(servers: Iterable[Server]) -> None:
    for server in servers:
        if server.exposed:
            warn(
                f"{server.name} listens on {server.host} and requires no key: any client that reaches this machine can "
                "use it. Set api_key_file, or remove host."
            )


class _Shown:
    """Shows the events of `up` as rows of progress."""

    def __init__(self, rows: Board) -> None:
        self._board = rows
        self._rows: dict[str, Row] = {}
        self._stay: set[str] = set()

    def __call__(self, event: up.Event) -> None:
        name = event.server.name
        if event.kind == "stays":
            self._board.console.print(f"[green]✓[/] {escape(name)} runs as described", highlight=False)
            self._stay.add(name)
            return
        row = self._rows.get(name)
        if row is None and name in self._stay and event.kind == "ready":
            return
        if row is None:
            doing = "Waiting for" if name in self._stay else "Starting"
            row = self._rows[name] = self._board.add(f"{doing} {name}")
        match event.kind:
            case "ready":
                row.done(f"ready on {event.text}")
            case "failed":
                row.failed()
            case "starts":
                row.note(event.text or "importing vLLM")
            case _:
                row.note(event.text)


def _looks(servers: Iterable[tuple[Runtime, Instance]]) -> list[status.Status]:
    with ready.client() as http:
        return [status.look(runtime, instance, http) for runtime, instance in servers]


def _named(runtimes: list[Runtime], names: list[str] | None) -> list[tuple[Runtime, Instance]]:
    found = [(each, instance) for each in runtimes for instance in each.instances()]
    for name in names or ():
        if name not in [instance.name for _, instance in found]:
            raise LaunchError(f"There is no server {name}; `vllm-launch status` lists the servers.")
    chosen = [pair for pair in found if not names or pair[1].name in names]
    if not chosen:
        raise LaunchError("No server is there. `vllm-launch up` starts some.")
    return chosen


def _follow_all(found: list[tuple[Runtime, Instance]], label: int, lines: int | None) -> None:
    """Print the new log lines of all servers. It returns when the last server ends or the reader closes the pipe."""
    written: Queue[tuple[str, str] | None] = Queue(_LINES_AHEAD)
    for pair in found:
        threading.Thread(target=_follow, args=(*pair, lines, written.put), daemon=True).start()
    following = len(found)
    while following:
        if line := written.get():
            _print_line(line[0], label, line[1])
        else:
            following -= 1


def _follow(
    runtime: Runtime, instance: Instance, lines: int | None, put: Callable[[tuple[str, str] | None], None]
) -> None:
    """Put (name, line) for each line of the log, and None at its end."""
    try:
        for line in runtime.follow(instance, lines):
            put((instance.name, line))
    except LaunchError as error:
        warn(str(error))
    finally:
        put(None)


def _print_line(name: str, label: int, line: str) -> None:
    sys.stdout.write(f"{name:<{label}} | {line}\n" if label else f"{line}\n")
    sys.stdout.flush()
