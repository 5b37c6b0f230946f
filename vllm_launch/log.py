"""Reading the log file of a vLLM server: what `logs` and `causes` say of its last part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import causes, logs

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 64 * 1024


def tail(log: Path) -> list[str]:
    """The last lines of a log, without the process prefixes; none where there is no log yet."""
    return logs.lines(read_tail(log))


def activity(log: Path) -> str:
    """What a starting server is doing, in words; empty while it has written nothing."""
    text = read_tail(log)
    return logs.activity(text) if text else ""


def cause(log: Path, exit_words: str = "") -> str:
    """Why it ended, in words; empty where the log does not tell."""
    found = causes.explain(read_tail(log), exit_words)
    return found.sentence if found else ""


def read_tail(log: Path) -> str:
    """The last 64 KiB of a log as text; empty where there is no log yet."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace")
