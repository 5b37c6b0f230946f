"""Writes every log line of the package: an event and its facts, as one line and as fields of the log record.

    ollama_compat.dispatch   decisions: failover, retry, circuit opened or closed, shared rates lost or restored
    ollama_compat            notices, each written once: options that vLLM does not support, and the like

Servers and callers choose names and messages. Therefore each fact is printable, on one line and of bounded length.
Prompts, answers and credentials are never facts. Nothing is shown until the service configures logging, for example
with `logging.basicConfig()`.
"""

from __future__ import annotations

import logging

from ..mapping.text import printable

NOTICES = logging.getLogger("ollama_compat")
DECISIONS = logging.getLogger("ollama_compat.dispatch")
NOTICES.addHandler(logging.NullHandler())  # for both loggers: without a handler Python writes warnings to stderr

MAX_FACT_LENGTH = 300
"""Maximum length of a name or a message in a log line (characters)."""


def log_decision(event: str, cause: str = "", /, **facts: object) -> None:
    """Log a decision as `event name='value' ... cause='...'`. Facts are names and numbers."""
    if cause:
        facts["cause"] = cause
    write(DECISIONS, event, " ".join(["%(event)s", *(f"{name}=%({name})r" for name in facts)]), facts)


def write(logger: logging.Logger, event: str, template: str, facts: dict[str, object]) -> None:
    """Log `template`, a %-template of `facts`, as a warning. `event` and the facts become fields of the record.

    A fact must not have the name of a standard field of `logging.LogRecord` (`name`, `args`, `module`, ...).
    """
    fields = {name: _bounded(fact) for name, fact in {"event": event, **facts}.items()}
    logger.warning(template, fields, extra=fields)


def line(text: str, max_length: int = MAX_FACT_LENGTH) -> str:
    """Put `text` on one line, without control characters, and cut it after `max_length` characters."""
    text = printable(" ".join(text[: 2 * max_length].split()))
    return text if len(text) <= max_length else text[:max_length] + "…"


def _bounded(fact: object) -> object:
    return fact if fact is None or isinstance(fact, (bool, int, float)) else line(str(fact))
