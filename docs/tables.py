"""Writes the tables of the documents from the code: `python docs/tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The test suite runs this with `--check`, so that no
table can go stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import launch_tables
import plan_tables

from ollama_compat.dispatch import REFUSED
from ollama_compat.mapping import infill as fim
from ollama_compat.mapping.model_families import FAMILIES
from ollama_compat.mapping.options import OPTIONS
from ollama_compat.providers.dialects import CHAT, DIALECTS, Dialect, Switch
from ollama_compat.providers.request import OLLAMA_NAMES
from ollama_compat.providers.response import FINISHES, SHAPES, STATUSES
from ollama_compat.servers.failures import FAILURES, UNAUTHORIZED
from ollama_compat.settings import CONFIG, VARIABLES
from tests.faults.faults import FAULTS, OF_LEARNING
from tests.faults.matrix import LEARNING, MATRIX
from vllm_launch import router

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("differences", "reliability", "providers", "launch", "gpu-memory", "scale")),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def environment() -> str:
    """The settings: variable, meaning, what it may hold, default."""
    rows = [(f"`{row.name}`", row.meaning, row.may_hold, row.default) for row in (*VARIABLES, CONFIG)]
    return table(("variable", "meaning", "may hold", "default"), rows)


def options() -> str:
    """The options: what becomes of each on vLLM."""
    rows = [
        (
            f"`{row.name}`",
            "" if row.default is None else f"`{row.default}`",
            f"`{row.field}`" if row.field else "none",
            row.note,
        )
        for row in OPTIONS
    ]
    return table(("Ollama's option", "default", "vLLM's parameter", "on vLLM"), rows)


def families() -> str:
    """The model families whose way of thinking is known."""
    meaning = {True: "thinks", False: "does not think", None: "as the server does"}
    rows = [
        (
            row.name,
            f"`{row.pattern}`",
            f"`{row.style.switch}`" if row.style.switch else "none",
            meaning[row.style.default],
            " ".join(f"`{tag}`" for tag in row.style.tags),
        )
        for row in FAMILIES
    ]
    return table(("family", "served name has", "switch in `chat_template_kwargs`", "`think` unset", "tags"), rows)


def insertion() -> str:
    """The model families whose fill-in-the-middle prompt is known."""
    return table(
        ("family", "served name has", "prompt"),
        [(row.name, f"`{row.pattern}`", f"`{row.prompt}`") for row in fim.FAMILIES],
    )


def refused() -> str:
    """The endpoints that vLLM has nothing for."""
    return table(("endpoint", "instead"), [(f"`{path}`", text) for path, text in REFUSED.items()])


def failures() -> str:
    """What each failure of a call allows."""
    yes = {True: "yes", False: ""}
    rows = [
        (
            f"`{row.kind}`",
            row.meaning,
            yes[row.again],
            yes[row.elsewhere],
            yes[row.elsewhere or row.stand_in or row is UNAUTHORIZED] + (" *" if row is UNAUTHORIZED else ""),
            yes[row.counts],
        )
        for row in FAILURES
    ]
    head = ("kind", "what it is", "same server again", "another server", "what stands in", "the breaker counts it")
    return table(head, rows) + "\n\n\\* of a provider or Ollama; a wrong key of vLLM's is a mistake to be told."


def matrix() -> str:
    """What each fault comes to."""
    rows = []
    for row in MATRIX:
        outcomes = [row.outcome(name, stream=stream, lasting=on).value for name, stream, on in _COLUMNS.values()]
        rows.append((f"`{row.fault}`", FAULTS[row.fault][1], *outcomes))
    return table(("fault", "what the client meets", *_COLUMNS), rows)


def learning() -> str:
    """What each fault of learning what a server serves comes to."""
    faults = FAULTS | OF_LEARNING
    rows = [(f"`{row.fault}`", faults[row.fault][1], row.once.value, row.lasting.value) for row in LEARNING]
    return table(("fault", "what the client meets", "once", "lasting"), rows)


_COLUMNS = {
    "streamed, once": ("chat", True, False),
    "chat, generate, once": ("chat", False, False),
    "embed, once": ("embed", False, False),
    "chat, generate, lasting": ("chat", True, True),
    "embed, lasting": ("embed", False, True),
}
"""Operation, whether streamed, whether the fault lasts. Where a fault lasts, streams end as plain calls do."""


_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "max_tokens", "stop", "logprobs", "top_logprobs"),
)
"""What a caller may say of sampling, by our names."""


def dialects() -> str:
    """The providers: what each takes in a chat, and which endpoints it has."""
    schemas = {"enforced": "enforced", "asked": "asked for, not enforced", "told": "told in the system prompt"}
    rows = [
        (
            f"`{row.name}`",
            "any other" if row is DIALECTS[-1] else " ".join(f"`{host}`" for host in row.hosts) or "where named",
            "" if row.everything else f"`{row.endpoints[CHAT]['max_tokens']}`",
            _lacking(row),
            f"`{row.shown}`" if row.shown else "not shown",
            schemas[row.schema],
            "yes" if row.completions is not None or row.everything else "no",
            "yes" if row.embeddings is not None or row.everything else "no",
        )
        for row in DIALECTS
    ]
    head = ("dialect", "hosts", "`num_predict` is", "not taken", "thoughts come in", "a schema as `format` is")
    return table((*head, "raw prompts", "embeddings"), rows)


def _lacking(row: Dialect) -> str:
    """What is left out of a chat, what is held to less, and what only some models refuse."""
    if row.everything:
        return ""
    lacking = [_said(key) for key in _SAMPLING if key not in row.endpoints[CHAT]]
    held = [f"{_said(key)} above {most:g}" for key, most in row.limits.items() if key != "logprobs"]  # of raw prompts
    refused = [
        f"for models with `{pattern}`: {' '.join(_said(key) for key in _SAMPLING if key in keys)}"
        for pattern, keys in row.refused.items()
    ]
    return "; ".join(text for text in (", ".join((*lacking, *held)), *refused) if text)


def _said(key: str) -> str:
    return f"`{OLLAMA_NAMES.get(key, key)}`"


def thinking_fields() -> str:
    """How thinking is switched, provider by provider."""
    rows = [
        (
            f"`{row.name}`",
            f"`{switch.pattern}`" if switch.pattern else "any",
            _part(switch.on),
            "can't be" if switch.off is None else _part(switch.off),
            "no levels" if switch.levels["low"] == switch.on else _efforts(switch),
        )
        for row in DIALECTS
        for switch in row.thinking
    ]
    return table(("dialect", "the model's name has", "on", "off", "`low`, `medium`, `high`, `max`"), rows)


def _part(part: Mapping[str, object]) -> str:
    return f"`{json.dumps(part)}`" if part else "nothing: it is on"


def _efforts(switch: Switch) -> str:
    return ", ".join(f"`{part['reasoning_effort']}`" for part in switch.levels.values())


def replies() -> str:
    """The shapes of replies that vLLM does not have."""
    rows = [(row.what, row.who, row.becomes, row.source) for row in SHAPES]
    return table(("what comes", "from", "becomes", "source"), rows)


def finishes() -> str:
    """The reasons to finish that vLLM does not have."""
    rows = [(f"`{row.said}`", f"`{row.means}`", row.told, row.source) for row in FINISHES]
    return table(("`finish_reason` begins with", "taken for", "the log tells of", "source"), rows)


def statuses() -> str:
    """The status of an error without a number."""
    return table(
        ("`code`, `type` or `status` has", "status"), [(f"`{word}`", str(status)) for word, status in STATUSES]
    )


def sources() -> str:
    """Where the rows are from."""
    return table(("dialect", "source"), [(f"`{row.name}`", row.source) for row in DIALECTS])


def _made(rows: Callable[[], plan_tables.Table]) -> str:
    return table(*rows())


def router_flags() -> str:
    """What vLLM's router is told."""
    rows = [(f"`{row.name} {row.value}`", str(row.default), row.why) for row in router.FLAGS]
    return table(("flag", "the router's default", "what it is"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "environment": environment,
    "options": options,
    "families": families,
    "insertion": insertion,
    "refused": refused,
    "failures": failures,
    "matrix": matrix,
    "learning": learning,
    "router": router_flags,
    "dialects": dialects,
    "switches": thinking_fields,
    "replies": replies,
    "finishes": finishes,
    "statuses": statuses,
    "sources": sources,
    **{f"memory_{rows.__name__}": partial(_made, rows) for rows in plan_tables.ALL},
    **{f"launch_{rows.__name__}": partial(_made, rows) for rows in launch_tables.ALL},
}

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def written(text: str) -> str:
    """The document with its tables as they should be."""
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}\n{block[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables; with `--check`, only tell whether they are up to date."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text("utf-8")
        if written(text) != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(written(text), "utf-8")
    for name in stale:
        print(f"{name}: tables were out of date")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
