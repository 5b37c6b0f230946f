"""Makes text that a server sent safe and short enough for a message or a log line."""

from __future__ import annotations

_MAX_QUOTED = 300  # characters


def printable(text: str) -> str:
    """`text` with each control character replaced by U+FFFD, so that it cannot control a terminal.

    Line feeds and tabs remain.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def shortened(text: str) -> str:
    """`text` on one line, printable, at most 300 characters plus an ellipsis."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"
