"""The commands env, check, plan, compose and k8s. They need only the descriptions of servers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from .. import service
from ..presets import GPU, PRESETS
from ..runtimes import LaunchError
from .app import JsonOption, Names, PythonOption, app, command_context, output, print_json


@app.command("env")
def env_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Default: all running servers.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="shell|dotenv|json", help="The output format.")] = "shell",
) -> None:
    """Print the variables for a service: eval "$(vllm-launch env)"."""
    if form not in ("shell", "dotenv", "json"):
        raise typer.BadParameter(f"{form!r}: it must be 'shell', 'dotenv' or 'json'", param_hint="--format")
    if names:
        servers = command_context(context).servers(names)
    else:
        found = [each for runtime in command_context(context).runtimes(None) for each in runtime.instances()]
        servers = [each.server for each in found if each.state != "exited"]
    variables = service.variables(servers, service.model_maps(os.environ))
    print(service.written(servers, variables, form))  # type: ignore[arg-type]  # see above


@app.command("check")
def check_command(context: typer.Context, names: Names = None, python: PythonOption = None) -> None:
    """Check the servers' arguments with vLLM's argument parser. It starts no server."""
    from .. import arguments
    from ..runtimes import preflight

    chosen = python or command_context(context).config.python
    with contextlib.suppress(LaunchError):  # without vLLM, the result is "not checked"
        chosen = preflight.find_python(chosen, os.environ)
    verdicts = arguments.check_all(command_context(context).servers(names), chosen)
    for verdict in verdicts:
        print(f"{verdict.server}: {verdict.words}")
    if any(verdict.accepted is False for verdict in verdicts):
        raise typer.Exit(1)


@app.command("plan")
def plan_command(
    context: typer.Context,
    names: Names = None,
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="CARD", help="A GPU, such as H100, 2xL40S or 24GiB; repeatable. Default: this machine's."
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the config.json of unknown models.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute whether the servers fit on the GPUs: weights, KV cache, number and length of sequences."""
    from .. import plan

    cards = plan.cards(gpus) if gpus else plan.gpus_here()
    worked_out = plan.plan(
        command_context(context).servers(names or ([*GPU] if not command_context(context).config.servers else None)),
        cards,
        plan.download if download else plan.find,
    )
    if as_json:
        print_json(worked_out.to_json())
    else:
        output().print(plan.render(worked_out))
    if not worked_out.fits:
        raise typer.Exit(1)


@app.command("compose")
def compose_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Default: all of the file, or all presets.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write all files of the stack to FOLDER.")
    ] = None,
) -> None:
    """Print a docker-compose.yml for the servers, or write it together with .env.example and monitoring."""
    from .. import compose

    config = command_context(context).config
    servers = config.named(names or [*config.servers] or [*PRESETS])
    if folder is None:
        print(compose.generate(servers), end="")
        return
    for path, text in compose.files(servers).items():
        _write(folder / path, text, with_folders=True)


@app.command("k8s")
def k8s_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Default: all of the file, or the GPU pair.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the manifests to FILE. Default: print.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Default: the namespace of kubectl.")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Minimum number of replicas of each server.")] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of replicas. Equal to --replicas: no autoscaling.", show_default="twice as many"
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The Prometheus that KEDA queries. Default: the operator's in namespace monitoring."
        ),
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A PersistentVolumeClaim for models. Default: each pod downloads its models."
        ),
    ] = None,
) -> None:
    """Print Kubernetes manifests for the servers: Deployment, Service, PodMonitor and autoscaling of each.

    Keys are in Secrets that you create. The first lines of the manifests show the commands.
    """
    from .. import kubernetes

    config = command_context(context).config
    servers = config.named(names or [*config.servers] or [*GPU])
    cluster = kubernetes.Cluster(namespace, replicas, max_replicas, prometheus or kubernetes.PROMETHEUS, claim)
    text = kubernetes.generate(servers, cluster)
    if file is None:
        print(text, end="")
        return
    _write(file, text)


def _write(file: Path, text: str, *, with_folders: bool = False) -> None:
    """Write the file and print its path."""
    try:
        if with_folders:
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise LaunchError(f"{file} cannot be written: {error.strerror}.") from error
    print(file)
