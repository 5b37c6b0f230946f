"""Checks servers' arguments with vLLM's own argument parser. It loads no model.

The parser runs once for all servers, in a separate process of the Python that has vLLM. That takes 5 to 15 seconds:
vLLM is slow to import. The table that explains a server's log also explains the parser's errors: both have the same
messages.
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

# Reads a list of argument lists. Writes vLLM's version and a list of errors (null: no error). The first module of each
# tuple is vLLM 0.32's, the others belong to earlier versions. The program looks up tool-call and reasoning parsers as a
# starting server does (entrypoints/launchers/launcher.py, validate_api_server_args). It cannot know those of plugins.
_PROGRAM = """
import contextlib, importlib, importlib.util, io, json, sys

def first(name, *modules):
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            last = error
    raise last

def reader():
    cli = "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args"
    make, validate = first("make_arg_parser", *cli), first("validate_parsed_serve_args", *cli)
    parser = make(first("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")(prog="vllm"))
    tools = first("ToolParserManager", "vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
    reasoning = first("ReasoningParserManager", "vllm.reasoning")
    known = [
        ("tool call parser", "tool_call_parser", "tool_parser_plugin", tools.list_registered()),
        ("reasoning parser", "reasoning_parser", "reasoning_parser_plugin", reasoning.list_registered()),
    ]

    def read(arguments):
        args = parser.parse_args(arguments)
        validate(args)
        for what, name, plugin, choices in known:
            value = getattr(args, name, None)
            if value and value not in choices and not getattr(args, plugin, None):
                raise KeyError(f"invalid {what}: {value} (chose from {{ {','.join(choices)} }})")

    return read

def check(read, arguments):
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            read(arguments)
    except SystemExit as error:
        return output.getvalue() or "SystemExit: the server would print its help or its version and exit"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

if importlib.util.find_spec("vllm") is None:
    answer = {"unable": "vLLM is not installed"}
else:
    try:
        read, version = reader(), importlib.import_module("vllm").__version__
        answer = {"version": version, "errors": [check(read, each) for each in json.load(sys.stdin)]}
    except Exception as error:
        answer = {"unable": f"vLLM's parser does not start: {type(error).__name__}: {error}"}
print()
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check of a server's arguments."""

    server: str
    """The server's name."""
    accepted: bool | None
    """Whether vLLM accepts the arguments. None: no vLLM could check them."""
    words: str
    """Text for the user: vLLM's version, or the error and its fix."""


def check_all(servers: Sequence[Server], python: Python | None) -> list[Verdict]:
    """Check each server's arguments with the vLLM of this Python. Raises nothing.

    A chat template on one of a server's volumes is not checked: its path exists only in the container.
    """
    if python is None:
        return _unchecked(servers, "no Python with vLLM is set (--python, or python in the configuration file)")
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
        return _unchecked(servers, f"{os.fspath(python)} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return _unchecked(servers, f"vLLM's parser took longer than {TIMEOUT_S:.0f} seconds")
    except ValueError:
        return _unchecked(servers, f"{os.fspath(python)} exited with status {written.returncode} and no result")
    if "unable" in answer:
        return _unchecked(servers, f"{os.fspath(python)}: {answer['unable']}")
    checked = zip(servers, answer["errors"], strict=True)
    return [_verdict(server, error, answer["version"]) for server, error in checked]


def _unchecked(servers: Sequence[Server], why: str) -> list[Verdict]:
    return [Verdict(server.name, None, f"not checked: {why}") for server in servers]


def _verdict(server: Server, error: str | None, version: str) -> Verdict:
    if error is None:
        return Verdict(server.name, True, f"vLLM {version} accepts the arguments")
    cause = causes.explain(error, "")
    return Verdict(server.name, False, cause.sentence if cause else error.strip().rpartition("\n")[2])


def _arguments(server: Server) -> list[str]:
    if server.chat_template is not None and _is_mounted(server.chat_template, server):
        server = server.model_copy(update={"chat_template": None})
    return server.arguments()


def _is_mounted(path: str, server: Server) -> bool:
    return any(PurePosixPath(path).is_relative_to(mounted_at(volume)) for volume in server.volumes.values())
