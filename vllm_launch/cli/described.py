"""env, check: what follows from the descriptions of servers alone."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import service
from ..runtimes import LaunchError
from .app import Names, PythonOption, app, meant


@app.command("env")
def env_command(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="None: those that run.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="shell|dotenv|json", help="How it is written.")] = "shell",
) -> None:
    """Print the variables for a service: eval "$(vllm-launch env)"."""
    from ollama_compat.settings import load as load_settings

    if form not in ("shell", "dotenv", "json"):
        raise typer.BadParameter(f"{form!r}: it may be 'shell', 'dotenv' or 'json'", param_hint="--format")
    if names:
        servers = meant(context).servers(names)
    else:
        servers = [each.server for runtime in meant(context).runtimes(None) for each in runtime.instances()]
    model_map = load_settings({"backend_mode": "vllm"}).vllm_model_map
    print(service.written(servers, service.variables(servers, model_map), form))  # type: ignore[arg-type]  # see above


@app.command("check")
def check_command(context: typer.Context, names: Names = None, python: PythonOption = None) -> None:
    """Have vLLM's own argument parser check the servers' arguments; nothing is started."""
    from .. import arguments

    problems = []
    for server in meant(context).servers(names):
        try:
            print(f"{server.name}: {arguments.check(server, python or meant(context).config.python)}")
        except LaunchError as error:
            problems.append(str(error))
    if problems:
        raise LaunchError("\n".join(problems))
