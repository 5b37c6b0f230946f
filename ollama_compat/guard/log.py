"""The log of decisions: one line for each, with its facts as fields of the record.

Logger `ollama_compat.guard`. It is silent where the service has set up no logging; the warnings of the translation
itself (`ollama_compat`) are not.
"""

from __future__ import annotations

import logging

from ..errors import printable

logger = logging.getLogger("ollama_compat.guard")
logger.addHandler(logging.NullHandler())


def decided(event: str, why: str = "", **facts: object) -> None:
    """Log a decision (`failover`, `retry`, `circuit opened`, …). Facts are names and numbers, never what was said."""
    told = " ".join(f"{name}={value!r}" for name, value in facts.items())
    because = printable(f": {' '.join(why.split())}") if why else ""  # on one line: a server must not forge another
    logger.warning("%s %s%s", event, told, because, extra={"event": event, **facts})
