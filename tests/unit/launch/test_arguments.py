"""The check of servers' arguments, with a fake package `vllm` and with Pythons that print no result."""

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
# The modules of vLLM 0.32, and of older versions.
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
    """Creates a fake Python that runs a shell script."""

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
def test_check_uses_the_parser_of_the_installed_vllm(vllm, modules, version):
    vllm(modules)
    assert words(described(tool_call_parser="hermes")) == f"vLLM {version} accepts the arguments"
    assert "this vLLM has no tool-call parser 'hermess'. Nearest: hermes" in words(
        described(tool_call_parser="hermess")
    )


@pytest.mark.parametrize(
    ("fields", "explanation"),
    [
        ({"extra_args": ("--max-model-length", "9")}, "does not know --max-model-length 9. Nearest: --max-model-len"),
        ({"extra_args": ("--max-model-length=9",)}, "does not know --max-model-length=9. Nearest: --max-model-len"),
        ({"dtype": "haf"}, "--dtype can't be 'haf'. Nearest: half. Allowed values: auto, half"),
        ({"reasoning_parser": "qwen"}, "no reasoning parser qwen. Nearest: qwen3"),
        ({"chat_template": "/no/such.jinja"}, "no chat template /no/such.jinja"),
        ({"extra_args": ("--help",)}, "the server would print its help or its version and exit"),
    ],
)
def test_check_explains_rejected_arguments(vllm, fields, explanation):
    vllm(NEW)
    [verdict] = arguments.check_all([described(**fields)], sys.executable)
    assert verdict.accepted is False
    assert explanation in verdict.words


def test_check_accepts_a_parser_of_a_plugin(vllm):
    vllm(NEW)
    assert words(described(tool_call_parser="own", extra_args=("--tool-parser-plugin", "/own.py"))).endswith(
        "accepts the arguments"
    )


def test_check_ignores_a_chat_template_on_a_volume(vllm):
    vllm(NEW)
    assert "accepts" in words(described(chat_template="/templates/own.jinja", volumes={"/here": "/templates:ro"}))
    assert "no chat template" in words(described(chat_template="/templates/own.jinja", volumes={"/here": "/temp:ro"}))


def test_check_runs_one_process_for_all_servers(vllm, tmp_path):
    vllm({**NEW, "__init__": f"open({str(tmp_path / 'imports')!r}, 'a').write('.')\n__version__ = '0.32.0'"})
    verdicts = arguments.check_all([described("a"), described("b", dtype="haf"), described("c")], sys.executable)
    assert [(verdict.server, verdict.accepted) for verdict in verdicts] == [("a", True), ("b", False), ("c", True)]
    assert (tmp_path / "imports").read_text() == "."


def test_check_rejects_nothing_without_vllm(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert words(described(dtype="haf")) == f"not checked: {sys.executable}: vLLM is not installed"
    assert words(described(), "/no/python") == "not checked: /no/python cannot be run: No such file or directory"
    assert "no Python with vLLM is set" in words(described(), None)


def test_check_rejects_nothing_when_the_parser_does_not_start(vllm):
    vllm({**NEW, "entrypoints/launchers/cli_args": "raise RuntimeError('Failed to infer device type')"})
    [verdict] = arguments.check_all([described()], sys.executable)
    assert verdict.accepted is None
    assert "parser does not start: RuntimeError: Failed to infer device type" in verdict.words


def test_check_rejects_nothing_when_python_prints_no_result(python):
    silent = python("exit 7")
    assert arguments.check_all([described()], silent) == [
        Verdict("chat", None, f"not checked: {silent} exited with status 7 and no result")
    ]


def test_check_rejects_nothing_when_the_parser_times_out(python, monkeypatch):
    monkeypatch.setattr(arguments, "TIMEOUT_S", 0.05)
    assert "took longer" in words(described(), python("exec sleep 60"))


def test_check_ignores_other_output_of_vllm(vllm):
    noisy = textwrap.dedent("""
        import sys
        print("INFO something")
        print("a warning", file=sys.stderr)
        __version__ = "0.32.0"
    """)
    vllm({**NEW, "__init__": noisy})
    assert words(described()) == "vLLM 0.32.0 accepts the arguments"
