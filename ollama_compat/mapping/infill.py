"""Fill in the middle: `suffix` of generate, as a prompt of the model family.

vLLM refuses OpenAI's own `suffix` for most models, so the prompt is written here and completed raw. Sources: the
families' model cards and Ollama's own templates for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: `pattern` is looked for in the served name and in its root, in lower case."""

    name: str
    pattern: str
    prompt: str
    stops: tuple[str, ...] = ()
    """What a completion must not run into: the family's own marks, which some servers print as text."""


_QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
_STAR = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")

FAMILIES = (
    Family("Qwen coder", r"qwen.*coder|codeqwen", "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>", _QWEN),
    Family("StarCoder", r"starcoder", "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>", _STAR),
    Family("Granite code", r"granite.*code", "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>", _STAR),
    Family("Granite 4", r"granite-4", "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>", _QWEN[:3]),
    Family("Code Llama", r"code-?llama", "<PRE> {prefix} <SUF>{suffix} <MID>", ("<EOT>", " <EOT>")),
    Family(
        "DeepSeek coder",
        r"deepseek-coder",
        "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ),
    Family("Codestral", r"codestral", "[SUFFIX]{suffix}[PREFIX] {prefix}", ("[PREFIX]", "[SUFFIX]")),
)


def family_of(served: str, root: str | None) -> Family | None:
    """The row of a served model."""
    names = f"{served}\n{root or ''}".lower()
    return next((row for row in FAMILIES if re.search(row.pattern, names)), None)


def fill(template: str, prefix: str, suffix: str) -> str:
    """The prompt: braces in either text stay what they are."""
    return re.sub(r"\{(prefix|suffix)\}", lambda mark: prefix if mark[1] == "prefix" else suffix, template)
