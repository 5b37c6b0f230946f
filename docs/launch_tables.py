"""The tables of docs/launch.md, as (head, rows), from the command, the descriptions and the table of faults."""

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

_ABOUT = {"arguments": "arguments", "model": "model", "memory": "memory", "machine": "machine"}


def commands() -> Table:
    """What each command does."""
    group = typer.main.get_command(application())
    assert isinstance(group, TyperGroup)
    rows = [(f"`vllm-launch {name}`", _first_line(each.help or "")) for name, each in group.commands.items()]
    return ("command", "action"), rows


def fields() -> Table:
    """The keys of a server in the configuration file."""
    docs = _field_docs(Server)
    rows = [
        (f"`{name}`", "required" if field.is_required() else _default(field.default), docs.get(name, _flag(name)))
        for name, field in Server.model_fields.items()
        if name != "name"
    ]
    return ("key", "default", "meaning"), rows


def presets() -> Table:
    """The predefined servers."""
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
    """The causes of failed starts."""
    rows = [(_ABOUT[fault.about], fault.name, _open(fault.words), _open(fault.advice)) for fault in FAULTS]
    return ("area", "cause", "message", "fix"), rows


def _first_line(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def _field_docs(model: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    [body] = [node.body for node in ast.parse(textwrap.dedent(inspect.getsource(model))).body if hasattr(node, "body")]
    docs = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def _flag(name: str) -> str:
    return f"vLLM's `--{name.replace('_', '-')}`"


def _default(default: object) -> str:
    if default in (None, (), {}, False):
        return ""
    return f"`{' '.join(default) if isinstance(default, tuple) else default}`"


def _own_flags(server: Server) -> list[str]:
    """The flags with their values, without listen address and model."""
    arguments = " ".join(server.arguments()[6:])
    return [part.strip() for part in re.split(r" (?=--)", arguments)] if arguments else []


def _open(words: str) -> str:
    """The sentence with `…` instead of values from the log."""
    return re.sub(r"\{\w+[^}]*\}", "…", words)


ALL = (commands, fields, presets, causes)
