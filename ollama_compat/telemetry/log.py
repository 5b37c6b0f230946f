"""The log of the package: one line for each thing that is told, with its facts as fields of the record.

    ollama_compat.dispatch   decisions: failover, retry, circuit opened and closed, rates lost and found
    ollama_compat         notices, once for each thing: what the caller asked for and vLLM has no word for, and the like

Every line of the package is written here. Servers and callers make up names and reasons, so each fact is printable, on
one line, and of bounded length. A service that has set up no logging sees nothing; `logging.basicConfig()` shows all.
"""

from __future__ import annotations

import logging

from ..mapping.errors import printable

NOTICES = logging.getLogger("ollama_compat")
DECISIONS = logging.getLogger("ollama_compat.dispatch")
NOTICES.addHandler(logging.NullHandler())  # without any, Python writes warnings to stderr; it is that of both

LONGEST_FACT = 300
"""The longest text that a line or a field shows of a name or a reason (characters)."""


def log_decision(event: str, why: str = "", /, **facts: object) -> None:
    """Log a decision (`failover`, `retry`, `circuit opened`, …). Facts are names and numbers, never what was said."""
    told = " ".join(f"{name}=%({name})r" for name in facts)
    write(DECISIONS, event, f"%(event)s {told}{': %(why)s' if why else ''}", {"event": event, "why": why, **facts})


def write(logger: logging.Logger, event: str, text: str, facts: dict[str, object]) -> None:
    """Log `text`, a %-template of `facts`, as a warning; `event` and the facts are fields of the record.

    No fact may have the name of a field that every record has (`name`, `args`, `module`, …).
    """
    told = {name: _bounded(fact) for name, fact in {"event": event, **facts}.items()}
    logger.warning(text, told, extra=told)


def line(text: str, longest: int = LONGEST_FACT) -> str:
    """`text` on one line, without what a terminal would act on, and no longer than that."""
    text = printable(" ".join(text[: 2 * longest].split()))
    return text if len(text) <= longest else text[:longest] + "…"


def _bounded(fact: object) -> object:
    return fact if fact is None or isinstance(fact, (bool, int, float)) else line(str(fact))
