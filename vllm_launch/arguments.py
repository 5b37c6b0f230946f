"""Servers' arguments, checked by vLLM itself: its own argument parser reads them, and no model is loaded.

The parser runs in the Python that has vLLM, in a process of its own, for the 5 to 15 seconds that importing vLLM takes,
once for all servers. What it complains of is put in words by the table that explains a server's log: the messages are
the same.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

from . import causes
from .servers import Server, mounted_at

Python: TypeAlias = str | os.PathLike[str]

TIMEOUT_S = 180.0

# Reads a list of argument lists, writes vLLM's version and a list of complaints (none: null). The modules are those of
# 0.32, and those of earlier versions after them. Parsers of tool calls and of thoughts are looked up here as a starting
# server does (entrypoints/launchers/launcher.py, validate_api_server_args); what a plugin brings is not known here.
_PROGRAM = """
import contextlib, importlib, importlib.util, io, json, sys

def first(name, *modules):
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            last = error
    raise last

def reading():
    cli = "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args"
    make, validate = first("make_arg_parser", *cli), first("validate_parsed_serve_args", *cli)
    parser = make(first("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")(prog="vllm"))
    tools = first("ToolParserManager", "vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
    thoughts = first("ReasoningParserManager", "vllm.reasoning")
    known = [
        ("tool call parser", "tool_call_parser", "tool_parser_plugin", tools.list_registered()),
        ("reasoning parser", "reasoning_parser", "reasoning_parser_plugin", thoughts.list_registered()),
    ]

    def read(arguments):
        args = parser.parse_args(arguments)
        validate(args)
        for what, name, plugin, choices in known:
            value = getattr(args, name, None)
            if value and value not in choices and not getattr(args, plugin, None):
                raise KeyError(f"invalid {what}: {value} (chose from {{ {','.join(choices)} }})")

    return read

def complaint(read, arguments):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            read(arguments)
    except SystemExit as error:
        return said.getvalue() or "SystemExit: the server would print its help or its version, and end"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

if importlib.util.find_spec("vllm") is None:
    answer = {"unable": "it has no vLLM"}
else:
    try:
        read, version = reading(), importlib.import_module("vllm").__version__
        answer = {"version": version, "complaints": [complaint(read, each) for each in json.load(sys.stdin)]}
    except Exception as error:
        answer = {"unable": f"vLLM's parser does not start: {type(error).__name__}: {error}"}
print()
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What vLLM says of a server's arguments."""

    server: str
    """Its name."""
    accepted: bool | None
    """None: there was no vLLM to ask."""
    words: str
    """For people: vLLM's version, or what is wrong and what to do about it."""


def check_all(servers: Sequence[Server], python: Python | None) -> list[Verdict]:
    """What the vLLM of this Python says of each server's arguments. Raises nothing.

    A chat template that lies on one of a server's volumes is not looked for: its path is the container's.
    """
    if python is None:
        return _unchecked(servers, "no Python with vLLM is named (--python, or python in the file of servers)")
    try:
        written = subprocess.run(
            [os.fspath(python), "-W", "ignore", "-c", _PROGRAM],
            input=json.dumps([_arguments(server) for server in servers]).encode(),
            env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        answer = json.loads(written.stdout.decode(errors="replace").strip().rpartition("\n")[2])
    except OSError as error:
        return _unchecked(servers, f"{os.fspath(python)} can't be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return _unchecked(servers, f"vLLM's parser took longer than {TIMEOUT_S:.0f} seconds")
    except ValueError:
        return _unchecked(servers, f"{os.fspath(python)} ended with status {written.returncode} and without an answer")
    if "unable" in answer:
        return _unchecked(servers, f"{os.fspath(python)}: {answer['unable']}")
    said = zip(servers, answer["complaints"], strict=True)
    return [_verdict(server, complaint, answer["version"]) for server, complaint in said]


def _unchecked(servers: Sequence[Server], why: str) -> list[Verdict]:
    return [Verdict(server.name, None, f"not checked: {why}") for server in servers]


def _verdict(server: Server, complaint: str | None, version: str) -> Verdict:
    if complaint is None:
        return Verdict(server.name, True, f"vLLM {version} takes its arguments")
    cause = causes.explain(complaint, "")
    return Verdict(server.name, False, cause.sentence if cause else complaint.strip().rpartition("\n")[2])


def _arguments(server: Server) -> list[str]:
    if server.chat_template is not None and _is_mounted(server.chat_template, server):
        server = server.model_copy(update={"chat_template": None})
    return server.arguments()


def _is_mounted(path: str, server: Server) -> bool:
    return any(PurePosixPath(path).is_relative_to(mounted_at(volume)) for volume in server.volumes.values())
