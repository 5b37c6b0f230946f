"""Explains why a server exited during its start: the likely cause, the fix, and the log line that is the evidence.

The table is `faults.FAULTS`. `explain` matches its rows in order against the log's errors (not vLLM's records below
ERROR) and against the exit of the process. If no row matches, the cause is the log's first exception: later exceptions
usually follow from it.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import logs
from .faults import ENDED, FAULTS, Fault


@dataclass(frozen=True, slots=True)
class Cause:
    """The likely cause of a server's exit."""

    name: str
    """The name of the table's row; `exception` if no row matches."""
    words: str
    """The cause, one sentence without a full stop; for `exception`, the line of the log."""
    advice: str
    """The fix, in sentences; empty if it is unknown."""
    evidence: str
    """The line of the log that shows the cause."""

    def __str__(self) -> str:
        """The sentence after `Cause: `, one line."""
        return f"Cause: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The cause and the advice, one line."""
        return f"{self.words}. {self.advice}" if self.advice else self.words


_REPORTED_LINES = 12
# Every failed start ends with one of these. They only say that another process failed before.
_CONSEQUENCES = ("Engine core initialization failed", "Frontend process failed", "WorkerProc initialization failed")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b: \S")
_FLAG = re.compile(r"--[a-z][\w-]*")


def explain(log_text: str, exit_words: str) -> Cause | None:
    """The likely cause of an exit; None if the log contains neither a known message nor an exception.

    `exit_words` describes the exit, such as `by SIGKILL` or `with status 1` (a container's 128 + n is signal n).
    """
    messages = [line.message for line in logs.parse(log_text) if line.level in ("", "ERROR", "CRITICAL")]
    text = "\n".join([*messages, f"{ENDED}{exit_words}"])
    for fault in FAULTS:
        if found := fault.pattern.search(text):
            return _cause(fault, found, text)
    return _first_exception(messages)


def failure_report(name: str, what: str, log_text: str, exit_words: str, log_file: Path | None = None) -> str:
    """A report of a failure: `what` happened to the server, the likely cause, and the last lines of the log."""
    cause = explain(log_text, exit_words)
    last = "\n".join(f"  {line}" for line in logs.lines(log_text)[-_REPORTED_LINES:])
    return "\n".join(
        (
            f"The vLLM server {name!r} {what}.",
            *([str(cause)] if cause else []),
            "The last lines of its log" + (f", {log_file}:" if log_file else ":"),
            last or "  (it is empty)",
        )
    )


def _cause(fault: Fault, found: re.Match[str], text: str) -> Cause:
    start = text.rfind("\n", 0, found.start()) + 1
    evidence = text[start:].partition("\n")[0]
    values = _values(found)
    advice = fault.advice.format(**values)
    if nearest := _nearest(values, text):
        advice = f"Nearest: {nearest}. {advice}"
    return Cause(fault.name, fault.words.format(**values), advice, evidence)


def _values(found: re.Match[str]) -> dict[str, str]:
    """The values of the groups. A group that did not take part in the match gets the value of its alternative."""
    groups = {name: value for name, value in found.groupdict().items() if value is not None}
    anything = next(iter(groups.values()), "")
    values = {name: groups.get(name, anything) for name in found.re.groupindex}
    if "choices" in values:
        values["choices"] = ", ".join(_words(values["choices"]))
    return values


def _nearest(values: Mapping[str, str], text: str) -> str:
    """The valid choices, or the flags in argparse's usage, that are closest to the invalid ones."""
    if "choices" in values:
        known, given = _words(values["choices"]), _words(values["value"])
    elif "flags" in values:
        known = sorted(set(_FLAG.findall(text.partition("error: unrecognized")[0])))
        given = [word.partition("=")[0] for word in values["flags"].split() if word.startswith("--")]
    else:
        return ""
    close = [difflib.get_close_matches(one, known, n=1, cutoff=0.7) for one in given]
    return ", ".join(word for words in close for word in words)


def _words(listed: str) -> list[str]:
    return [word for word in re.split(r"[,\s'\"]+", listed) if word]


def _first_exception(messages: list[str]) -> Cause | None:
    for line, following in itertools.pairwise([*messages, ""]):
        if _EXCEPTION.match(line) and not any(words in line for words in _CONSEQUENCES):
            # pydantic writes the error in the next line, indented.
            words = f"{line}: {following.strip()}" if following.startswith("  ") else line
            return Cause("exception", words, "", line)
    return None
