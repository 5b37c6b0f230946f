"""The one place where the package's log lines are written."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ollama_compat
from ollama_compat.call import Memory
from ollama_compat.telemetry import log
from ollama_compat.telemetry.log import LONGEST_FACT, log_decision, write
from tests.unit.dispatch.client import A, Client

EVIL = "\x1b[2J\x1b[31mEVIL\n2026 CRITICAL forged\u2028line\x85\ud800"
"""A name that would clear a terminal, begin new lines, and be no UTF-8."""


def only(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = caplog.records
    return record


def test_a_decision_is_one_line_with_its_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", "it is\nbusy", model="smol", seconds=0.5)
    record = only(caplog)
    assert (record.name, record.levelno) == ("ollama_compat.dispatch", logging.WARNING)
    assert record.getMessage() == "failover model='smol' seconds=0.5: it is busy"
    told = vars(record)
    assert (told["event"], told["why"], told["model"], told["seconds"]) == ("failover", "it is busy", "smol", 0.5)


def test_a_decision_without_a_reason_has_no_colon(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", model="smol")
    assert only(caplog).getMessage() == "failover model='smol'"


def test_a_percent_sign_in_a_fact_is_no_template(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", "100% %s %(model)s", model="50%d")
    assert only(caplog).getMessage() == "failover model='50%d': 100% %s %(model)s"


def notice(fact: str) -> None:
    Memory().notice("told", "it", "there is %(fact)s", fact=fact)


@pytest.mark.parametrize("tell", [lambda fact: log_decision("told", fact, fact=fact), notice])
def test_whoever_makes_a_name_up_writes_neither_lines_nor_to_the_terminal(
    tell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tell(EVIL)
    record = only(caplog)
    for shown in (record.getMessage(), vars(record)["fact"]):
        assert shown.isprintable()
        assert "EVIL 2026 CRITICAL forged line" in shown


@pytest.mark.parametrize("tell", [lambda fact: log_decision("told", fact, fact=fact), notice])
def test_a_line_and_its_fields_are_bounded(tell: Any, caplog: pytest.LogCaptureFixture) -> None:
    tell("x" * 10_000_000)
    record = only(caplog)
    assert len(record.getMessage()) < 3 * LONGEST_FACT
    assert max(len(str(value)) for value in vars(record).values()) < 3 * LONGEST_FACT
    assert vars(record)["fact"] == "x" * LONGEST_FACT + "…"


def test_numbers_stay_numbers(caplog: pytest.LogCaptureFixture) -> None:
    write(log.NOTICES, "told", "%(count)d %(share).1f %(none)s", {"count": 3, "share": 0.5, "none": None})
    assert only(caplog).getMessage() == "3 0.5 None"
    assert [vars(only(caplog))[name] for name in ("count", "share", "none")] == [3, 0.5, None]


# Notices


def test_a_notice_is_given_once_for_each_subject_of_an_event(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    for event, subject in (("option", "a"), ("option", "a"), ("option", "b"), ("model", "a")):
        memory.notice(event, subject, "%(subject)s", subject=subject)
    told = [(vars(record)["event"], record.getMessage()) for record in caplog.records]
    assert told == [("option", "a"), ("option", "b"), ("model", "a")]
    assert {record.name for record in caplog.records} == {"ollama_compat"}


def test_names_that_callers_make_up_fill_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    for number in range(500):
        memory.notice("model", "x" * 1000 + str(number), "made up")
    assert len(caplog.records) == 1, "subjects are cut, too"
    for number in range(500):
        memory.notice("model", f"made up {number}", "made up")
    assert len(caplog.records) == 100
    assert max(len(subject) for subject in memory.noticed["model"]) <= LONGEST_FACT + 1
    memory.notice("option", "mirostat", "an option")
    assert caplog.records[-1].getMessage() == "an option", "they don't keep other notices away"


def test_what_the_servers_serve_is_told_in_short_and_can_not_steer_a_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Client(a=(EVIL.removesuffix("\ud800"), *(f"model-{number}" for number in range(1000)))).fails(model="nope")
    record = only(caplog)
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 2 * LONGEST_FACT
    told = vars(record)
    assert (told["event"], told["model"], told["served"]) == ("model not served", "nope", "nope")
    assert told["instead"].startswith(f"{A} serves ")
    assert "and 991 more" in told["instead"]


# Silent by default


def test_a_service_that_has_set_up_no_logging_sees_nothing() -> None:
    said = _stderr("")
    assert said == ""


def test_basic_config_shows_notices_and_decisions() -> None:
    said = _stderr("logging.basicConfig(format='%(name)s: %(message)s')")
    assert said.splitlines() == ["ollama_compat: a notice", "ollama_compat.dispatch: decided model='smol'"]


def _stderr(setup: str) -> str:
    program = f"""
import logging
{setup}
from ollama_compat.telemetry.log import log_decision
from ollama_compat.call import Memory
Memory().notice("told", "it", "a notice")
log_decision("decided", model="smol")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stderr


def test_nothing_in_the_package_logs_by_itself() -> None:
    folder = Path(ollama_compat.__file__).parent
    own = [path for path in folder.rglob("*.py") if re.search(r"getLogger|\blogging\b", path.read_text("utf-8"))]
    assert [path.name for path in own] == ["log.py"]
