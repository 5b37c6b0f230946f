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
# Fidelity: vLLM's answers compared with Ollama's

Every request recorded with a real Ollama 0.33 (llama.cpp, CPU), sent to vLLM 0.32 (CPU) with the same weights and the
same prompts, through the methods of the official client. `python -m tests.conformance` writes this page. The test
suite compares the same cases (`tests/conformance`); with the async client it generates once for each kind of request.

The compared aspects, from coarse to fine: **outcome** (an answer, or an error with its status), **fields** (and their
types), **end** (`done_reason`), **counts** (of tokens), **content** (text, thinking, tool calls, vectors, or the
message of an error). The content is compared only if two runs of Ollama returned the same. llama.cpp computes with
8-bit activations and vLLM with floats: if two tokens have nearly the same probability, longer texts diverge.

"""


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
    lines = ["| aspect | agree | of |", "| --- | --- | --- |"]
    lines += [f"| {aspect} | {len(compared) - differ[aspect]} | {len(compared)} |" for aspect in ASPECTS]
    return "\n".join(lines) + "\n\n"


def _table(compared: list[Case], found: dict[str, dict[str, str]]) -> str:
    lines = ["| case | agrees | reason for a difference |", "| --- | --- | --- |"]
    for case in compared:
        how = found[case.name]
        _, reason = DIFFERENT.get(case.name, (frozenset(), "not explained"))
        agrees = (
            "in every aspect" if not how else "except for " + ", ".join(aspect for aspect in ASPECTS if aspect in how)
        )
        lines.append(f"| {case.name} | {agrees} | {reason if how else ''} |")
    return "\n".join(lines) + "\n\n"


def _unsupported(unsupported: dict[str, str]) -> str:
    lines = ["Requests that the official client cannot send:", ""]
    lines += [f"- {name}: {reason}" for name, reason in unsupported.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
