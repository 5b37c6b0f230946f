"""Reading the log of a vLLM server for people: what it is doing now, and why it ended.

vLLM writes `(EngineCore pid=12) INFO 01-31 12:00:00 [core.py:1] message`; tracebacks carry the same process prefix.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROCESS = re.compile(r"^\([\w-]+ pid=\d+\) ?")
_RECORD = re.compile(r"^(?:INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^\]]+\] ?")
_INFO = re.compile(r"^INFO \d\d-\d\d [\d:]+ \[[^\]]+\] (?P<message>\S.*)")
# The banner, the routes, and settings that vLLM reports on the way: none of it says how far the start has come.
_DULL = re.compile(
    r"[▀▄█]|^\t|^Route: |^Available routes|^non-default args|^Final IR op|^Enabled custom fusions|^DP group|^OpenMP"
    r"|^world_size|^rank |^Filesystem type|^Auto-prefetch|^Found |^Reducing |^Using |^Supported tasks|^Detected "
    r"|^Scale-out"
)
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b: \S")
# What every failed start ends with: it only says that another process failed before.
_CONSEQUENCE = "Engine core initialization failed"

_TAIL_BYTES = 64 * 1024


def tail(log: Path) -> list[str]:
    """The last lines of a log, without the process prefixes; none where there is no log yet."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [_PROCESS.sub("", line.rstrip()) for line in text.splitlines() if line.strip()]


def activity(log: Path) -> str:
    """The last thing a server said that tells a waiting person something; empty before that."""
    for line in reversed(tail(log)):
        found = _INFO.match(line)
        if found and not _DULL.search(found["message"]):
            return found["message"].partition(" with config:")[0]
    return ""


def cause(log: Path) -> str:
    """The first exception in the last lines, which is the one that the others follow from; empty without one."""
    lines = [_RECORD.sub("", line) for line in tail(log)]
    for line, following in itertools.pairwise([*lines, ""]):
        if _EXCEPTION.match(line) and _CONSEQUENCE not in line:
            # pydantic says what is wrong in the next line, indented.
            return f"{line}: {following.strip()}" if following.startswith("  ") else line
    return ""
