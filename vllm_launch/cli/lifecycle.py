"""up, down, status, logs: servers from their start to their end; rollback: Ollama in their place."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .. import causes, ready, rollback, up
from ..progress import Board, Row, board, step
from ..runtimes import Instance, LaunchError, Runtime
from .app import JsonOption, Names, PythonOption, RuntimeOption, app, has_gpu, meant, output, print_json


@app.command("up")
def up_command(
    context: typer.Context,
    names: Names = None,
    runtime: RuntimeOption = None,
    python: PythonOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the servers answer.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Start anew what runs otherwise than described.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until a server must be ready.")] = up.READY_TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Start servers and wait until they answer. What runs as described stays."""
    servers = meant(context).servers(names)
    chosen = meant(context).runtime(runtime, python)
    options: up.Options = {"replacing": replace, "timeout_s": timeout, "waiting": wait}
    try:
        if as_json:
            print_json([_told(instance) for instance in up.up(chosen, servers, lambda _: None, **options)])
            return
        with board() as rows:
            up.up(chosen, servers, _Shown(rows), **options)
    except KeyboardInterrupt:
        print("\nvllm-launch: stopped; what was still starting has been stopped too.", file=sys.stderr)
        raise typer.Exit(130) from None
    console = output()
    if wait:
        console.print('What a service needs to know: [bold]eval "$(vllm-launch env)"[/]')
    else:
        console.print("They are starting; [bold]vllm-launch status[/] tells when they are ready.")


@app.command("down")
def down_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="None: all that run.")] = None,
    runtime: RuntimeOption = None,
    grace: Annotated[float, typer.Option(help="Seconds that a server has to finish.")] = up.GRACE_S,
    as_json: JsonOption = False,
) -> None:
    """Stop servers. Volumes with downloaded models stay."""
    report: Callable[[str], None] = (lambda _: None) if as_json else print
    stopped = [name for each in meant(context).runtimes(runtime) for name in up.down(each, names or (), report, grace)]
    missing = [name for name in names or () if name not in stopped]
    if as_json:
        print_json(stopped)
    elif not stopped and not missing:
        print("No server is there to stop.")
    if missing:
        raise LaunchError(f"There is no {', '.join(missing)} to stop; `vllm-launch status` lists what there is.")


@app.command("status")
def status_command(context: typer.Context, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Tell how the servers are; exit status 1 where one of them is not ready."""
    found = [(each, instance) for each in meant(context).runtimes(runtime) for instance in each.instances()]
    with ready.client() as http:
        told = [_told(instance, ready.ask(instance.server, http)) for _, instance in found]
    if as_json:
        print_json(told)
    elif not told:
        print("No server is there. `vllm-launch up` starts some.")
    else:
        output().print(_table(told))
        for each, instance in found:
            if instance.state != "running" and (cause := causes.explain(each.log(instance, 2000), instance.ended)):
                print(f"\n{instance.name} ended {instance.ended}. {cause}")
    if any(row["state"] != "ready" for row in told):
        raise typer.Exit(1)


@app.command("logs")
def logs_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="None: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they write, until Ctrl-C.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", help="Only the last lines.")] = None,
    runtime: RuntimeOption = None,
) -> None:
    """Print what the servers have written."""
    found = _named(meant(context).runtimes(runtime), names)
    label = max(len(instance.name) for _, instance in found) if len(found) > 1 else 0
    if not follow:
        for each, instance in found:
            for line in each.log(instance, lines).splitlines():
                _print_line(instance.name, label, line)
        return
    readers = [threading.Thread(target=_follow, args=(*pair, label, lines), daemon=True) for pair in found]
    for reader in readers:
        reader.start()
    for reader in readers:
        while reader.is_alive():  # a join without end would not hear Ctrl-C
            reader.join(0.2)


@app.command("rollback")
def rollback_command(
    context: typer.Context,
    runtime: RuntimeOption = None,
    pull: Annotated[bool, typer.Option("--pull", help="Have Ollama fetch the models that it lacks.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until Ollama must answer.")] = rollback.READY_TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Bring Ollama up, wait until it answers, and tell what a service has to change. vLLM goes on."""
    from ollama_compat.settings import load as load_settings

    models = load_settings({"backend_mode": "vllm"}).vllm_model_map
    report: Callable[[str], None] = (lambda _: None) if as_json else print
    way = rollback.rollback(models, meant(context).runtime_name(runtime), report, gpu=has_gpu(), timeout_s=timeout)
    missing = way.missing
    if pull:
        for name in missing:
            _pull(name, shown=not as_json)
        missing = ()
    if as_json:
        told = {"url": way.url, "version": way.version, "started": way.started, "missing": list(missing)}
        print_json({**told, "variables": dict(way.variables())})
        return
    print(f"Ollama {way.version} answers at {way.url}.")
    if missing:
        print(f"It does not have {', '.join(missing)}. To fetch: vllm-launch rollback --pull, or ollama pull NAME")
    print("Give the service this, and restart it:")
    for name, value in way.variables().items():
        print(f"  {name}={value}")
    print("When no service asks vLLM any more: vllm-launch down")


def _pull(model: str, *, shown: bool) -> None:
    if not shown:
        rollback.pull(model, lambda _: None)
        return
    with step(f"Fetching {model}") as row:
        rollback.pull(model, row.note)
        row.done()


class _Shown:
    """Shows what `up` tells as rows of progress."""

    def __init__(self, rows: Board) -> None:
        self._board = rows
        self._rows: dict[str, Row] = {}

    def __call__(self, event: up.Event) -> None:
        name = event.server.name
        if event.kind == "stays":
            self._board.console.print(f"[green]✓[/] {escape(name)} runs as described", highlight=False)
            return
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._board.add(f"Starting {name}")
        match event.kind:
            case "ready":
                row.done(f"ready on {event.text}")
            case "failed":
                row.failed()
            case "starts":
                row.note(event.text or "importing vLLM")
            case _:
                row.note(event.text)


def _named(runtimes: list[Runtime], names: list[str] | None) -> list[tuple[Runtime, Instance]]:
    found = [(each, instance) for each in runtimes for instance in each.instances()]
    for name in names or ():
        if name not in [instance.name for _, instance in found]:
            raise LaunchError(f"There is no {name}; `vllm-launch status` lists what there is.")
    chosen = [pair for pair in found if not names or pair[1].name in names]
    if not chosen:
        raise LaunchError("No server is there. `vllm-launch up` starts some.")
    return chosen


def _follow(runtime: Runtime, instance: Instance, label: int, lines: int | None) -> None:
    try:
        for line in runtime.follow(instance, lines):
            _print_line(instance.name, label, line)
    except LaunchError as error:
        print(f"vllm-launch: {error}", file=sys.stderr)


def _print_line(name: str, label: int, line: str) -> None:
    sys.stdout.write(f"{name:<{label}} | {line}\n" if label else f"{line}\n")
    sys.stdout.flush()


def _told(instance: Instance, answer: ready.Answer | None = None) -> dict[str, Any]:
    """A server as `--json` tells it. `state`: ready, starting, unhealthy, restarting, exited, or stranger."""
    server = instance.server
    state = {"silent": "starting"}.get(answer.readiness, answer.readiness) if answer else "ready"
    return {
        "name": server.name,
        "runtime": instance.runtime,
        "state": state if instance.state == "running" else instance.state,
        "reason": instance.ended or (answer.reason if answer else ""),
        "url": server.base_url,
        "models": list(server.served),
        "id": instance.id,
        "started_at": instance.started_at,
    }


_COLORS = {"ready": "green", "starting": "yellow", "restarting": "yellow"}


def _table(told: list[dict[str, Any]]) -> Table:
    table = Table("server", "state", "address", "models", "runtime", "id", box=None, header_style="bold")
    for row in told:
        state = f"[{_COLORS.get(row['state'], 'red')}]{row['state']}[/]"
        cells = (row["url"], ", ".join(row["models"]), row["runtime"], row["id"])
        table.add_row(escape(row["name"]), state, *(escape(str(cell)) for cell in cells))
    return table
