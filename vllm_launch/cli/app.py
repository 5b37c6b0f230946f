"""The application: shared options, error messages and exit statuses.

Exit status: 0 success, 1 failure (the reason is on standard error), 2 invalid command line, 130 Ctrl-C.
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
    help="Starts, monitors and stops vLLM servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Names: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Servers of the file or presets. Default: all of the file, or a preset pair."),
]
StartRuntime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--runtime", "-r", metavar="docker|process", help="The runtime. Default: that of the file, or docker."
    ),
]
RuntimeOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--runtime", "-r", metavar="docker|process", help="Only servers of this runtime. Default: both."),
]
PythonOption: TypeAlias = Annotated[
    str | None, typer.Option(help="The Python with vLLM, for `--runtime process`. Default: searched automatically.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_PLAIN_WIDTH = 160


class CommandContext:
    """The options of the command line and the configuration file. The file is read when a command needs it."""

    def __init__(self, file: Path | None) -> None:
        """`file`: the configuration file of the command line, if set."""
        self._file = file

    @functools.cached_property
    def config(self) -> Config:
        """The configuration. Raises `LaunchError` if the file is invalid."""
        return load(self._file)

    def readable(self) -> Config:
        """The configuration. An invalid file causes a warning only: stopping servers and rollback need no file."""
        try:
            return self.config
        except LaunchError as error:
            warn(f"{error}\nThis command continues without the file.")
            return Config()

    def servers(self, names: Sequence[str] | None) -> list[Server]:
        """The servers of these names. Without names: those of the file, or the presets for this machine."""
        if names:
            return self.config.named(names)
        if self.config.servers:
            return list(self.config.servers.values())
        return self.config.named(presets.GPU if has_gpu() else presets.CPU)

    def runtime(self, name: str | None, python: str | None = None) -> Runtime:
        """The runtime of the command line, of the file, or Docker."""
        return open_runtime(runtime_name(name, self.config), python or self.config.python)

    def runtimes(self, name: str | None) -> list[Runtime]:
        """The runtime of the command line, or all available ones. This needs no file."""
        self.readable()
        known = _runtime_name(name)
        return [open_runtime(known)] if known else available_runtimes(warn)


def runtime_name(name: str | None, config: Config) -> RuntimeName:
    """The runtime of the command line, of the file, or Docker."""
    return _runtime_name(name) or config.runtime or "docker"


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver.

    A broken driver counts as a GPU: the user has to fix it. A small model must not silently replace the large one.
    """
    return shutil.which("nvidia-smi") is not None


def command_context(context: typer.Context) -> CommandContext:
    """The context of the command, from the options before it."""
    assert isinstance(context.obj, CommandContext)
    return context.obj


def output() -> Console:
    """Standard output. Without a terminal, lines are not wrapped and tables are wide."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_PLAIN_WIDTH)


def warn(line: str) -> None:
    """Print a message to standard error."""
    print(f"vllm-launch: {line}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _runtime_name(name: str | None) -> RuntimeName | None:
    match name:
        case None | "docker" | "process":
            return name
        case _:
            raise typer.BadParameter(f"{name!r}: it must be 'docker' or 'process'", param_hint="--runtime")


@app.callback()
def _options(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="The configuration file. Default: $VLLM_LAUNCH_CONFIG, ./vllm-launch.toml."),
    ] = None,
) -> None:
    context.obj = CommandContext(file)


def application() -> typer.Typer:
    """The application with all commands, in the order of the help."""
    for module in ("lifecycle", "described", "watching"):  # each module adds its commands
        importlib.import_module(f"{__package__}.{module}")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns exit status 1 after an error, and raises `SystemExit` otherwise."""
    _open_closed_streams()
    run = application()
    # A normal exit, so that servers that are still starting are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        try:
            run(args=None if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()
    except LaunchError as error:
        warn(str(error))
    except BrokenPipeError:  # the reader closed the pipe
        _drop_output()
    except OSError as error:
        _drop_output()
        warn(f"{error.filename or 'The output'} cannot be read or written: {error.strerror or error}.")
    return 1


def _open_closed_streams() -> None:
    """Open streams that the caller has closed (`>&-`), before another file gets their number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open until the process exits


def _drop_output() -> None:
    """Discard the output. The rest of the buffer would cause another error at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
