"""Servers' arguments before vLLM's parser: a stand-in, a `vllm` of a few lines, and Pythons without an answer."""

from __future__ import annotations

import sys
import textwrap

import pytest

from vllm_launch import arguments
from vllm_launch.arguments import Verdict
from vllm_launch.servers import Server

CLI = """
def make_arg_parser(parser):
    for flag in ("--host", "--port", "--model", "--max-model-len", "--chat-template", "--tool-parser-plugin"):
        parser.add_argument(flag)
    parser.add_argument("--dtype", choices=["auto", "half"])
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--reasoning-parser", default="")
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    return parser


def validate_parsed_serve_args(args):
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        raise TypeError("Error: --enable-auto-tool-choice requires --tool-call-parser")
    if args.chat_template:
        raise ValueError(f"The supplied chat template ({args.chat_template}) looks like a file path")
"""
MANAGER = """
class {name}:
    @classmethod
    def list_registered(cls):
        return {parsers}
"""
# The modules of vLLM 0.32, and those of older versions.
NEW = {
    "__init__": "__version__ = '0.32.0'",
    "utils/argparse_utils": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "entrypoints/launchers/cli_args": CLI,
    "tool_parsers/__init__": MANAGER.format(name="ToolParserManager", parsers=["hermes", "mistral"]),
    "reasoning/__init__": MANAGER.format(name="ReasoningParserManager", parsers=["qwen3"]),
}
OLD = {
    "__init__": "__version__ = '0.9.0'",
    "utils/__init__": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "entrypoints/openai/cli_args": CLI,
    "entrypoints/openai/tool_parsers/__init__": NEW["tool_parsers/__init__"],
    "reasoning/__init__": NEW["reasoning/__init__"],
}


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """Writes a package `vllm` that this Python finds."""

    def write(modules):
        for name, text in modules.items():
            file = tmp_path / "vllm" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


@pytest.fixture
def python(tmp_path):
    """Makes a Python that does something else."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def described(name="chat", **fields):
    return Server(name=name, model="org/model", port=8001, **fields)


def words(server, python=sys.executable):
    [verdict] = arguments.check_all([server], python)
    return verdict.words


@pytest.mark.parametrize(("modules", "version"), [(NEW, "0.32.0"), (OLD, "0.9.0")], ids=["0.32", "older"])
def test_vllms_own_parser_reads_them(vllm, modules, version):
    vllm(modules)
    assert words(described(tool_call_parser="hermes")) == f"vLLM {version} takes its arguments"
    assert "this vLLM has no tool-call parser 'hermess'. Nearest: hermes" in words(
        described(tool_call_parser="hermess")
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"extra_args": ("--max-model-length", "9")}, "does not know --max-model-length 9. Nearest: --max-model-len"),
        ({"extra_args": ("--max-model-length=9",)}, "does not know --max-model-length=9. Nearest: --max-model-len"),
        ({"dtype": "haf"}, "--dtype can't be 'haf'. Nearest: half. It may be auto, half"),
        ({"reasoning_parser": "qwen"}, "no reasoning parser qwen. Nearest: qwen3"),
        ({"chat_template": "/no/such.jinja"}, "no chat template /no/such.jinja"),
        ({"extra_args": ("--help",)}, "the server would print its help or its version, and end"),
    ],
)
def test_what_vllm_does_not_take_is_told_in_words(vllm, fields, told):
    vllm(NEW)
    [verdict] = arguments.check_all([described(**fields)], sys.executable)
    assert verdict.accepted is False
    assert told in verdict.words


def test_a_parser_that_a_plugin_brings_is_not_looked_up(vllm):
    vllm(NEW)
    assert words(described(tool_call_parser="own", extra_args=("--tool-parser-plugin", "/own.py"))).endswith(
        "takes its arguments"
    )


def test_a_template_on_a_volume_is_not_looked_for(vllm):
    vllm(NEW)
    assert "takes" in words(described(chat_template="/templates/own.jinja", volumes={"/here": "/templates:ro"}))
    assert "no chat template" in words(described(chat_template="/templates/own.jinja", volumes={"/here": "/temp:ro"}))


def test_several_servers_are_read_by_one_process(vllm, tmp_path):
    vllm({**NEW, "__init__": f"open({str(tmp_path / 'imports')!r}, 'a').write('.')\n__version__ = '0.32.0'"})
    verdicts = arguments.check_all([described("a"), described("b", dtype="haf"), described("c")], sys.executable)
    assert [(verdict.server, verdict.accepted) for verdict in verdicts] == [("a", True), ("b", False), ("c", True)]
    assert (tmp_path / "imports").read_text() == "."


def test_where_there_is_no_vllm_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert words(described(dtype="haf")) == f"not checked: {sys.executable}: it has no vLLM"
    assert words(described(), "/no/python") == "not checked: /no/python can't be run: No such file or directory"
    assert "no Python with vLLM is named" in words(described(), None)


def test_a_vllm_whose_parser_does_not_start_refuses_nothing(vllm):
    vllm({**NEW, "entrypoints/launchers/cli_args": "raise RuntimeError('Failed to infer device type')"})
    [verdict] = arguments.check_all([described()], sys.executable)
    assert verdict.accepted is None
    assert "parser does not start: RuntimeError: Failed to infer device type" in verdict.words


def test_a_python_that_answers_nothing_refuses_nothing(python):
    silent = python("exit 7")
    assert arguments.check_all([described()], silent) == [
        Verdict("chat", None, f"not checked: {silent} ended with status 7 and without an answer")
    ]


def test_a_parser_that_takes_too_long_refuses_nothing(python, monkeypatch):
    monkeypatch.setattr(arguments, "TIMEOUT_S", 0.05)
    assert "took longer" in words(described(), python("exec sleep 60"))


def test_what_vllm_prints_on_the_way_does_not_matter(vllm):
    noisy = textwrap.dedent("""
        import sys
        print("INFO something")
        print("a warning", file=sys.stderr)
        __version__ = "0.32.0"
    """)
    vllm({**NEW, "__init__": noisy})
    assert words(described()) == "vLLM 0.32.0 takes its arguments"
