"""The tables of docs/launch.md: (head, rows) of each, from the command, the descriptions and the table of faults."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap

import typer.main
from typer.core import TyperGroup

from vllm_launch import Server
from vllm_launch.cli import application
from vllm_launch.faults import FAULTS
from vllm_launch.presets import PRESETS

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

_ABOUT = {"arguments": "its arguments", "model": "its model", "memory": "memory", "machine": "the machine"}


def commands() -> Table:
    """What each command does."""
    group = typer.main.get_command(application())
    assert isinstance(group, TyperGroup)
    rows = [(f"`vllm-launch {name}`", _first_line(each.help or "")) for name, each in group.commands.items()]
    return ("command", "what it does"), rows


def fields() -> Table:
    """The keys of a server in the file."""
    said = _said(Server)
    rows = [
        (f"`{name}`", "must be given" if field.is_required() else _default(field.default), said.get(name, _flag(name)))
        for name, field in Server.model_fields.items()
        if name != "name"
    ]
    return ("key", "default", "what it is"), rows


def presets() -> Table:
    """The servers that need no file."""
    rows = [
        (
            f"`{server.name}`",
            f"`{server.model}`",
            str(server.port),
            "none" if not server.gpus else ", ".join(map(str, server.gpus)),
            " ".join(f"`{part}`" for part in _own_flags(server)),
        )
        for server in PRESETS.values()
    ]
    return ("preset", "model", "port", "GPUs", "vLLM's flags"), rows


def causes() -> Table:
    """Why servers end while they start."""
    rows = [(_ABOUT[fault.about], fault.name, _open(fault.words), _open(fault.advice)) for fault in FAULTS]
    return ("in", "cause", "what is said", "and what to do"), rows


def _first_line(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def _said(model: type) -> dict[str, str]:
    """What stands below each field of a class."""
    [body] = [node.body for node in ast.parse(textwrap.dedent(inspect.getsource(model))).body if hasattr(node, "body")]
    said = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            said[field.target.id] = " ".join(str(below.value.value).split())
    return said


def _flag(name: str) -> str:
    return f"vLLM's `--{name.replace('_', '-')}`"


def _default(default: object) -> str:
    if default in (None, (), {}, False):
        return ""
    return f"`{' '.join(default) if isinstance(default, tuple) else default}`"


def _own_flags(server: Server) -> list[str]:
    """Flag and value together, without where it listens and what its model is."""
    arguments = " ".join(server.arguments()[6:])
    return [part.strip() for part in re.split(r" (?=--)", arguments)] if arguments else []


def _open(words: str) -> str:
    """A sentence with dots where the log's own words are put in."""
    return re.sub(r"\{\w+[^}]*\}", "…", words)


ALL = (commands, fields, presets, causes)
