"""Writes docs/fidelity.md: `python -m tests.conformance` sends every recorded request to real vLLM servers."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import ollama_compat as ollama
from testbed import environment, models, servers
from testbed.paths import HOME
from vllm_launch import free_ports

from .compare import all_differences
from .recorded import ASPECTS, DIFFERENT, Case, cases

OUTPUT = Path(__file__).parents[2] / "docs" / "fidelity.md"

HEAD = """\
# Fidelity

This page compares replies of vLLM 0.32 (CPU) with the recorded replies of a real Ollama 0.33 (llama.cpp, CPU). Both serve
the same weights and receive the same requests through the methods of the official client. `python -m tests.conformance`
writes this page. The test suite (`tests/conformance`) compares the same cases, and repeats one generation of each kind
with the async client.

The comparison has five aspects, from coarse to fine:

| aspect | compares |
| --- | --- |
| outcome | a reply, or an error with its status |
| fields | the fields of the reply and their types |
| end | `done_reason` |
| counts | token counts |
| text | text, thinking, tool calls, vectors; the message of an error |

The text counts only if two recordings of Ollama agree. llama.cpp computes with 8-bit activations, vLLM with
floating-point numbers: if two tokens are almost equally likely, a longer text may diverge.

"""  # noqa: E501


def main() -> None:
    """Send the requests, compare the answers, write the page."""
    python = environment.prepare()
    models.prepare(python, (models.SMOLLM2, models.MINILM))
    ports = free_ports(2)
    os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp()
    supported, unsupported = cases()
    compared = [case for case in supported if case.arguments.get("model") != "gemma270"]
    with servers.serving([servers.chat(ports[0]), servers.embed(ports[1])], python, HOME / "logs" / "fidelity") as run:
        urls = ",".join(process.url for process in run)
        config = str(Path(__file__).with_name("models.toml"))
        with ollama.Client(backend_mode="vllm", vllm_urls=urls, ollama_compat_config=config) as client:
            found = all_differences(client, compared)
    OUTPUT.write_text(HEAD + _summary(compared, found) + _table(compared, found) + _unsupported(unsupported), "utf-8")
    print(f"{OUTPUT.name}: {len(compared)} cases, {sum(not how for how in found.values())} agree in every aspect")


def _summary(compared: list[Case], found: dict[str, dict[str, str]]) -> str:
    differ = Counter(aspect for how in found.values() for aspect in how)
    lines = ["| aspect | cases that agree | cases |", "| --- | --- | --- |"]
    lines += [f"| {aspect} | {len(compared) - differ[aspect]} | {len(compared)} |" for aspect in ASPECTS]
    return "\n".join(lines) + "\n\n"


def _table(compared: list[Case], found: dict[str, dict[str, str]]) -> str:
    lines = ["| case | agrees in | reason for the difference |", "| --- | --- | --- |"]
    for case in compared:
        how = found[case.name]
        _, reason = DIFFERENT.get(case.name, (frozenset(), "not explained"))
        differing = ", ".join(aspect for aspect in ASPECTS if aspect in how)
        agrees = f"all but {differing}" if how else "all aspects"
        lines.append(f"| {case.name} | {agrees} | {reason if how else ''} |")
    return "\n".join(lines) + "\n\n"


def _unsupported(unsupported: dict[str, str]) -> str:
    lines = ["Cases that the official client cannot send:", ""]
    lines += [f"- {name}: {reason}" for name, reason in unsupported.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
