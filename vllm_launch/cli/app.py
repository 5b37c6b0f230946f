"""The application: what all commands share, and how an error becomes a message and an exit status.

Exit status: 0 all went well, 1 it did not (the reason is on standard error), 2 a wrong command line, 130 Ctrl-C.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from .. import presets
from ..config import Config, load
from ..runtimes import LaunchError, Runtime, RuntimeName, available_runtimes, open_runtime
from ..servers import Server

app = typer.Typer(
    name="vllm-launch",
    help="Brings vLLM servers up, tells how they are, and takes them down.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Names: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Servers of the file or presets. None: all of the file, or a preset pair."),
]
StartRuntime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--runtime", "-r", metavar="docker|process", help="How servers run. Default: the file's, else docker."
    ),
]
RuntimeOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--runtime", "-r", metavar="docker|process", help="Only servers that run so. Default: both."),
]
PythonOption: TypeAlias = Annotated[
    str | None, typer.Option(help="The Python that has vLLM, for `--runtime process`. Default: the one that is found.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_PLAIN_WIDTH = 160


class CommandContext:
    """What the command line means, together with the file, which is read when a command needs it."""

    def __init__(self, file: Path | None) -> None:
        """`file`: the one of the command line, if any."""
        self._file = file

    @functools.cached_property
    def config(self) -> Config:
        """What the file says. Raises `LaunchError` where it can't be made sense of."""
        return load(self._file)

    def readable(self) -> Config:
        """The same; a file that is broken is told, and keeps nobody from stopping a server or from going back."""
        try:
            return self.config
        except LaunchError as error:
            warn(f"{error}\nThis command goes on without that file.")
            return Config()

    def servers(self, names: Sequence[str] | None) -> list[Server]:
        """The servers of these names; without names those of the file, or the presets that suit this machine."""
        if names:
            return self.config.named(names)
        if self.config.servers:
            return list(self.config.servers.values())
        return self.config.named(presets.GPU if has_gpu() else presets.CPU)

    def runtime(self, name: str | None, python: str | None = None) -> Runtime:
        """The runtime that is asked for, or the file's, or Docker, opened."""
        return open_runtime(runtime_name(name, self.config), python or self.config.python)

    def runtimes(self, name: str | None) -> list[Runtime]:
        """The runtime that is asked for, or all that answer, for what runs there: that needs no file."""
        self.readable()
        known = _runtime_name(name)
        return [open_runtime(known)] if known else available_runtimes(warn)


def runtime_name(name: str | None, config: Config) -> RuntimeName:
    """The runtime that is asked for, or the file's, or Docker."""
    return _runtime_name(name) or config.runtime or "docker"


def has_gpu() -> bool:
    """Whether this machine is meant to have an NVIDIA GPU.

    A driver that is there and does not work is one to mend: no small model is to stand in for the large one unasked.
    """
    return shutil.which("nvidia-smi") is not None


def command_context(context: typer.Context) -> CommandContext:
    """What the options before the command have settled."""
    assert isinstance(context.obj, CommandContext)
    return context.obj


def output() -> Console:
    """Standard output; where it is no terminal, lines are never broken and tables have room."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_PLAIN_WIDTH)


def warn(line: str) -> None:
    """Tell something beside the result, on standard error."""
    print(f"vllm-launch: {line}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _runtime_name(name: str | None) -> RuntimeName | None:
    match name:
        case None | "docker" | "process":
            return name
        case _:
            raise typer.BadParameter(f"{name!r}: it may be 'docker' or 'process'", param_hint="--runtime")


@app.callback()
def _options(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Servers of one's own. Default: $VLLM_LAUNCH_CONFIG, ./vllm-launch.toml."),
    ] = None,
) -> None:
    context.obj = CommandContext(file)


def application() -> typer.Typer:
    """The application with all of its commands, in the order of the help."""
    for module in ("lifecycle", "described", "watching"):  # they add their commands
        importlib.import_module(f"{__package__}.{module}")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status 1 after an error, and raises `SystemExit` otherwise."""
    _open_closed_streams()
    run = application()
    # An ordinary exit, so that what is still starting is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        try:
            run(args=None if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()
    except LaunchError as error:
        warn(str(error))
    except BrokenPipeError:  # who reads has seen enough
        _drop_output()
    except OSError as error:
        _drop_output()
        warn(f"{error.filename or 'What is printed'} can't be written or read: {error.strerror or error}.")
    return 1


def _open_closed_streams() -> None:
    """Have streams where the caller has closed them (`>&-`), before a file gets their number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as we live


def _drop_output() -> None:
    """Nothing more can be printed; what is left in the buffer would be an error once more at the exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
