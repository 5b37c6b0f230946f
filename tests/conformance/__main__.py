"""Writes docs/fidelity.md: `python -m tests.conformance` asks every recorded request of real vLLM servers."""

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
# How near the answers are

Every request that was recorded of a real Ollama 0.33 (llama.cpp, CPU), asked of vLLM 0.32 (CPU) with the same weights
and the same prompts, through the official client's methods. Written by `python -m tests.conformance`; the test suite
compares the same cases, those that generate with the async client once of each kind (`tests/conformance`).

What is compared, from the coarse to the fine: **outcome** (an answer, or an error with its status), **fields** (and
their types), **end** (`done_reason`), **counts** (of tokens), **words** (text, thoughts, tool calls, vectors; an
error's message). Words count only where Ollama itself said the same twice. llama.cpp computes with 8-bit activations,
vLLM with floats: where two words are nearly as likely, a longer text goes another way.

"""


def main() -> None:
    """Ask, compare, write."""
    python = environment.prepare()
    models.prepare(python, (models.SMOLLM2, models.MINILM))
    ports = free_ports(2)
    os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp()
    able, unable = cases()
    able = [case for case in able if case.arguments.get("model") != "gemma270"]
    with servers.serving([servers.chat(ports[0]), servers.embed(ports[1])], python, HOME / "logs" / "fidelity") as run:
        urls = ",".join(process.url for process in run)
        config = str(Path(__file__).with_name("models.toml"))
        with ollama.Client(backend_mode="vllm", vllm_urls=urls, ollama_compat_config=config) as client:
            found = all_differences(client, able)
    OUTPUT.write_text(HEAD + _summary(able, found) + _table(able, found) + _unable(unable), "utf-8")
    print(f"{OUTPUT.name}: {len(able)} cases, {sum(not how for how in found.values())} agree in every aspect")


def _summary(able: list[Case], found: dict[str, dict[str, str]]) -> str:
    differ = Counter(aspect for how in found.values() for aspect in how)
    lines = ["| aspect | agree | of |", "| --- | --- | --- |"]
    lines += [f"| {aspect} | {len(able) - differ[aspect]} | {len(able)} |" for aspect in ASPECTS]
    return "\n".join(lines) + "\n\n"


def _table(able: list[Case], found: dict[str, dict[str, str]]) -> str:
    lines = ["| case | agrees | why not |", "| --- | --- | --- |"]
    for case in able:
        how = found[case.name]
        _, reason = DIFFERENT.get(case.name, (frozenset(), "not explained"))
        agrees = "in all" if not how else "but for " + ", ".join(aspect for aspect in ASPECTS if aspect in how)
        lines.append(f"| {case.name} | {agrees} | {reason if how else ''} |")
    return "\n".join(lines) + "\n\n"


def _unable(unable: dict[str, str]) -> str:
    lines = ["Not asked, because the official client can't send them:", ""]
    lines += [f"- {name}: {reason}" for name, reason in unable.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
