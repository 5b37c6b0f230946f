"""Writes the tables of the documents from the code: `python docs/tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The test suite runs this with `--check`, so that no
table can go stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ollama_compat.operations import fim
from ollama_compat.operations.options import OPTIONS
from ollama_compat.operations.thinking import FAMILIES
from ollama_compat.settings import CONFIG, VARIABLES
from ollama_compat.translation import REFUSED

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/differences.md")


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


TABLES: dict[str, Callable[[], str]] = {
    "environment": environment,
    "options": options,
    "families": families,
    "insertion": insertion,
    "refused": refused,
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
