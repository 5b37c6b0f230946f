"""The one table of model families: thinking, fill in the middle, and the parsers that vLLM needs for them.

A row applies to a served model whose name or root contains its pattern. A column that is None says nothing: the next
row that matches decides, so specific rows come before general ones. A profile's `thinking` and `fim` replace a column.

Sources: the models' cards and chat templates, Ollama's own templates for the models, and vLLM's documentation of tool
calling and reasoning outputs (0.32).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

THINK_TAGS = ("<think>", "</think>")

LEVELS = ("high", "medium", "low", "max")
"""The levels that `think` may name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ThinkingStyle:
    """How a model thinks, and how a request enables thinking."""

    default: bool | None = None
    """Whether the model thinks if a call does not set `think`; None: the server's own behaviour."""
    switch: str | None = None
    """The key in `chat_template_kwargs` that enables and disables thinking; None: the model has none."""
    levels: bool = False
    """Whether the model supports levels (`reasoning_effort`)."""
    tags: tuple[str, str] = THINK_TAGS
    """What opens and closes the thinking in the text."""

    @property
    def always(self) -> bool:
        """Whether the model thinks and a request cannot disable it."""
        return bool(self.default) and self.switch is None

    @property
    def never(self) -> bool:
        """Whether the model cannot think."""
        return self.default is False and self.switch is None


UNKNOWN = ThinkingStyle(None, "enable_thinking")
"""The style of a model without a row or a profile: the key that most templates read."""


@dataclass(frozen=True, slots=True)
class Infill:
    """How a model fills in the middle: vLLM refuses OpenAI's `suffix` for most models, so the prompt is sent raw."""

    prompt: str
    """The prompt, with `{prefix}` and `{suffix}`."""
    stops: tuple[str, ...] = ()
    """Stop strings: the family's own markers, which some servers return as text."""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table. `pattern` is searched in the served name and in the root, in lower case."""

    name: str
    pattern: str
    thinking: ThinkingStyle | None = None
    infill: Infill | None = None
    tool_parser: str | None = None
    """The value of vLLM's `--tool-call-parser`."""
    reasoning_parser: str | None = None
    """The value of vLLM's `--reasoning-parser`."""


_QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
_QWEN_INFILL = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
_STAR_INFILL = Infill(
    "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),
)
_DEEPSEEK_INFILL = Infill(
    "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
_SWITCH = "enable_thinking"

FAMILIES = (
    Family(
        "EXAONE Deep", r"exaone-?deep", ThinkingStyle(True, tags=("<thought>", "</thought>")), None, None, "deepseek_r1"
    ),
    Family("EXAONE 4", r"exaone-?4", ThinkingStyle(False, _SWITCH), None, "hermes", "deepseek_v3"),
    Family("DeepSeek R1", r"deepseek-?r1", ThinkingStyle(True), None, "deepseek_v3", "deepseek_r1"),
    Family("Qwen 3 Coder", r"qwen3.*coder", ThinkingStyle(False), None, "qwen3_coder"),
    Family("Qwen 3 Instruct 2507", r"qwen3.*instruct", ThinkingStyle(False), None, "hermes"),
    Family("Qwen 3 Thinking 2507, QwQ", r"qwen3.*thinking|qwq", ThinkingStyle(True), None, "hermes", "deepseek_r1"),
    Family("Qwen 3", r"qwen-?3", ThinkingStyle(True, _SWITCH), None, "hermes", "qwen3"),
    Family("Qwen coder", r"qwen.*coder|codeqwen", infill=Infill(_QWEN_INFILL, _QWEN)),
    Family("Qwen 2.5", r"qwen-?2", tool_parser="hermes"),
    Family(
        "DeepSeek V3.1 and later",
        r"deepseek-v(3[.-]?[1-9]|[4-9])",
        ThinkingStyle(True, "thinking"),
        None,
        "deepseek_v31",
        "deepseek_v3",
    ),
    Family("DeepSeek coder", r"deepseek-coder", infill=_DEEPSEEK_INFILL),
    Family("GPT-OSS", r"gpt-?oss", ThinkingStyle(True, None, levels=True), None, "openai", "openai_gptoss"),
    Family("Granite 3.2 and 3.3", r"granite-3\.[23]", ThinkingStyle(True, "thinking"), None, "granite", "granite"),
    Family("Granite code", r"granite.*code", infill=_STAR_INFILL),
    Family("Granite 4", r"granite-4", None, Infill(_QWEN_INFILL, _QWEN[:3]), "granite4"),
    Family("GLM 4.5 and later", r"glm-(4\.[5-9]|[5-9])", ThinkingStyle(True, _SWITCH), None, "glm45", "glm45"),
    Family("Magistral", r"magistral", ThinkingStyle(True, tags=("[THINK]", "[/THINK]")), None, "mistral", "mistral"),
    Family("Codestral", r"codestral", infill=Infill("[SUFFIX]{suffix}[PREFIX] {prefix}", ("[PREFIX]", "[SUFFIX]"))),
    Family("Mistral", r"mistral|ministral|mixtral", tool_parser="mistral"),
    Family("StarCoder", r"starcoder", infill=_STAR_INFILL),
    Family("Code Llama", r"code-?llama", infill=Infill("<PRE> {prefix} <SUF>{suffix} <MID>", ("<EOT>", " <EOT>"))),
    Family("Llama 3", r"llama-?3", tool_parser="llama3_json"),
    Family("Llama 4", r"llama-?4", tool_parser="llama4_pythonic"),
)

_NAMES = re.compile(
    r"(exaone|qwen|llama|gemma|mistral|mixtral|ministral|magistral|codestral|phi|deepseek|granite|gpt-?oss|glm|falcon"
    r"|smollm|starcoder|codellama|command|yi|solar|olmo|nemotron|kimi|hunyuan|minimax|bge|e5|gte|nomic)",
    re.I,
)


def family_name(base: str) -> str:
    """Ollama's `family` of a model, from the beginning of its name; empty if the name does not show it."""
    found = _NAMES.match(base)
    return found[0].lower().replace("-", "") if found else ""


def thinking_style(
    served: str,
    root: str | None,
    *,
    default: bool | None = None,
    switch: str | None = None,
    tags: tuple[str, str] | None = None,
) -> ThinkingStyle | None:
    """How a served model thinks; None: not known. `default`, `switch` and `tags` are the profile's, over the row's."""
    style = _first(served, root, _thinking)
    if default is None and switch is None and tags is None:
        return style
    style = style or ThinkingStyle()
    return replace(
        style,
        default=style.default if default is None else default,
        switch=style.switch if switch is None else switch,
        tags=style.tags if tags is None else tags,
    )


def infill_of(served: str, root: str | None) -> Infill | None:
    """How a served model fills in the middle; None: it does not, as far as the table says."""
    return _first(served, root, _infill)


def tool_parser_of(served: str, root: str | None) -> str | None:
    """The `--tool-call-parser` of a served model; None: not known."""
    return _first(served, root, _tool_parser)


def fill(template: str, prefix: str, suffix: str) -> str:
    """A fill-in-the-middle prompt. Braces in either text stay what they are."""
    return re.sub(r"\{(prefix|suffix)\}", lambda mark: prefix if mark[1] == "prefix" else suffix, template)


def thinking_fields(
    style: ThinkingStyle, think: bool | str | None, kwargs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a request that enable or disable thinking: `chat_template_kwargs` and `reasoning_effort`.

    `kwargs`: further `chat_template_kwargs`, from the profile.
    """
    wanted = style.default if think is None else think
    fields: dict[str, Any] = {"chat_template_kwargs": dict(kwargs)} if kwargs else {}
    if wanted is None:
        return fields
    if style.switch:
        fields["chat_template_kwargs"] = {**(kwargs or {}), style.switch: bool(wanted)}
    if isinstance(wanted, str) and wanted in LEVELS:
        fields["reasoning_effort"] = "high" if wanted == "max" and style.levels else wanted
    elif style.levels and wanted is False:
        fields["reasoning_effort"] = "low"  # the least that such a model supports
    return fields


def _thinking(row: Family) -> ThinkingStyle | None:
    return row.thinking


def _infill(row: Family) -> Infill | None:
    return row.infill


def _tool_parser(row: Family) -> str | None:
    return row.tool_parser


@lru_cache(maxsize=1024)
def _rows(names: str) -> tuple[Family, ...]:
    return tuple(row for row in FAMILIES if re.search(row.pattern, names))


def _first(served: str, root: str | None, column: Callable[[Family], T | None]) -> T | None:
    """The first value of a column in the rows that match a served model."""
    rows = _rows(f"{served}\n{root or ''}".lower())
    return next((value for row in rows if (value := column(row)) is not None), None)
