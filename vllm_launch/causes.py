"""Why a server ended while it was starting: the likely cause in words, what to do about it, and the line that says so.

The table is `faults.FAULTS`: its rows are tried in order on the log's errors (vLLM's records below ERROR are left out)
and on how the process ended. Where none fits, the answer is the log's first exception, from which the others follow.
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
    """Why a server ended, as far as its log tells."""

    name: str
    """The row of the table; `exception` where none fits."""
    words: str
    """What was wrong, one sentence without a full stop; for `exception` the log's own line."""
    advice: str
    """What to do about it, in sentences; empty where nobody can tell."""
    evidence: str
    """The line of the log that says so."""

    def __str__(self) -> str:
        """One line, `Cause: ` before it."""
        return f"Cause: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The words and the advice, one line."""
        return f"{self.words}. {self.advice}" if self.advice else self.words


_TOLD_LINES = 12
# What every failed start ends with: it only says that another process failed before.
_CONSEQUENCES = ("Engine core initialization failed", "Frontend process failed", "WorkerProc initialization failed")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b: \S")
_FLAG = re.compile(r"--[a-z][\w-]*")


def explain(log_text: str, exit_words: str) -> Cause | None:
    """The likely cause of an end; None where the log holds neither a known message nor an exception.

    `exit_words` is how the process ended, as `by SIGKILL` or `with status 1` (a container's 128 + n is signal n).
    """
    messages = [line.message for line in logs.parse(log_text) if line.level in ("", "ERROR", "CRITICAL")]
    told = "\n".join([*messages, f"{ENDED}{exit_words}"])
    for fault in FAULTS:
        if found := fault.pattern.search(told):
            return _cause(fault, found, told)
    return _first_exception(messages)


def failure_report(name: str, what: str, log_text: str, exit_words: str, log_file: Path | None = None) -> str:
    """`what` happened to the server of that name, the likely cause, and the last lines of its log."""
    cause = explain(log_text, exit_words)
    last = "\n".join(f"  {line}" for line in logs.lines(log_text)[-_TOLD_LINES:])
    return "\n".join(
        (
            f"The vLLM server {name!r} {what}.",
            *([str(cause)] if cause else []),
            "The last lines of its log" + (f", {log_file}:" if log_file else ":"),
            last or "  (it is empty)",
        )
    )


def _cause(fault: Fault, found: re.Match[str], told: str) -> Cause:
    start = told.rfind("\n", 0, found.start()) + 1
    evidence = told[start:].partition("\n")[0]
    said = _said(found)
    advice = fault.advice.format(**said)
    if nearest := _nearest(said, told):
        advice = f"Nearest: {nearest}. {advice}"
    return Cause(fault.name, fault.words.format(**said), advice, evidence)


def _said(found: re.Match[str]) -> dict[str, str]:
    """The groups. One that took no part in the match has what its alternative found."""
    groups = {name: value for name, value in found.groupdict().items() if value is not None}
    anything = next(iter(groups.values()), "")
    said = {name: groups.get(name, anything) for name in found.re.groupindex}
    if "choices" in said:
        said["choices"] = ", ".join(_words(said["choices"]))
    return said


def _nearest(said: Mapping[str, str], told: str) -> str:
    """What there is that is closest to what there is not: of the choices, or of the flags of argparse's usage."""
    if "choices" in said:
        known, asked = _words(said["choices"]), _words(said["value"])
    elif "flags" in said:
        known = sorted(set(_FLAG.findall(told.partition("error: unrecognized")[0])))
        asked = [word.partition("=")[0] for word in said["flags"].split() if word.startswith("--")]
    else:
        return ""
    close = [difflib.get_close_matches(one, known, n=1, cutoff=0.7) for one in asked]
    return ", ".join(word for words in close for word in words)


def _words(listed: str) -> list[str]:
    return [word for word in re.split(r"[,\s'\"]+", listed) if word]


def _first_exception(messages: list[str]) -> Cause | None:
    for line, following in itertools.pairwise([*messages, ""]):
        if _EXCEPTION.match(line) and not any(words in line for words in _CONSEQUENCES):
            # pydantic says what is wrong in the next line, indented.
            words = f"{line}: {following.strip()}" if following.startswith("  ") else line
            return Cause("exception", words, "", line)
    return None
