"""The log lines of the package: format, bounds, and protection against names that servers and callers choose."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ollama_compat
from ollama_compat.telemetry import log
from ollama_compat.telemetry.log import MAX_FACT_LENGTH, log_decision, write
from ollama_compat.telemetry.notices import Notices
from tests.unit.dispatch.client import A, Client

EVIL = "\x1b[2J\x1b[31mEVIL\n2026 CRITICAL forged\u2028line\x85\ud800"
"""A name that clears a terminal, starts new lines and cannot be encoded as UTF-8."""


def only_record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = caplog.records
    return record


def test_log_decision_writes_one_line_with_facts_as_record_fields(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", "it is\nbusy", model="smol", seconds=0.5)
    record = only_record(caplog)
    assert (record.name, record.levelno) == ("ollama_compat.dispatch", logging.WARNING)
    assert record.getMessage() == "failover model='smol' seconds=0.5 cause='it is busy'"
    fields = vars(record)
    assert (fields["event"], fields["cause"], fields["model"], fields["seconds"]) == (
        "failover",
        "it is busy",
        "smol",
        0.5,
    )


def test_log_decision_omits_empty_cause(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", model="smol")
    assert only_record(caplog).getMessage() == "failover model='smol'"


def test_log_decision_does_not_expand_percent_signs_in_facts(caplog: pytest.LogCaptureFixture) -> None:
    log_decision("failover", "100% %s %(model)s", model="50%d")
    assert only_record(caplog).getMessage() == "failover model='50%d' cause='100% %s %(model)s'"


def notice(fact: str) -> None:
    Notices().notice("event", "subject", "there is %(fact)s", fact=fact)


both = pytest.mark.parametrize("write_fact", [lambda fact: log_decision("event", fact, fact=fact), notice])


@both
def test_log_line_escapes_control_characters_and_newlines(write_fact: Any, caplog: pytest.LogCaptureFixture) -> None:
    write_fact(EVIL)
    record = only_record(caplog)
    for shown in (record.getMessage(), vars(record)["fact"]):
        assert shown.isprintable()
        assert "EVIL 2026 CRITICAL forged line" in shown


@both
def test_log_line_and_record_fields_are_bounded(write_fact: Any, caplog: pytest.LogCaptureFixture) -> None:
    write_fact("x" * 10_000_000)
    record = only_record(caplog)
    assert len(record.getMessage()) < 3 * MAX_FACT_LENGTH
    assert max(len(str(value)) for value in vars(record).values()) < 3 * MAX_FACT_LENGTH
    assert vars(record)["fact"] == "x" * MAX_FACT_LENGTH + "…"


def test_write_keeps_numbers_and_none_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    write(log.NOTICES, "event", "%(count)d %(share).1f %(none)s", {"count": 3, "share": 0.5, "none": None})
    assert only_record(caplog).getMessage() == "3 0.5 None"
    assert [vars(only_record(caplog))[name] for name in ("count", "share", "none")] == [3, 0.5, None]


# Notices


def test_notice_is_written_once_per_event_and_subject(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for event, subject in (("option", "a"), ("option", "a"), ("option", "b"), ("model", "a")):
        notices.notice(event, subject, "%(subject)s", subject=subject)
    notices = [(vars(record)["event"], record.getMessage()) for record in caplog.records]
    assert notices == [("option", "a"), ("option", "b"), ("model", "a")]
    assert {record.name for record in caplog.records} == {"ollama_compat"}


def test_number_and_length_of_remembered_subjects_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for number in range(500):
        notices.notice("model", "x" * 1000 + str(number), "invented")
    assert len(caplog.records) == 1, "subjects are cut before they are compared"
    for number in range(500):
        notices.notice("model", f"invented {number}", "invented")
    assert len(caplog.records) == 100
    assert max(len(subject) for subject in notices.logged["model"]) <= MAX_FACT_LENGTH + 1
    notices.notice("option", "mirostat", "an option")
    assert caplog.records[-1].getMessage() == "an option", "one event does not block the notices of other events"


def test_model_not_served_notice_is_printable_and_lists_few_models(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Client(a=(EVIL.removesuffix("\ud800"), *(f"model-{number}" for number in range(1000)))).failing_call(model="nope")
    record = only_record(caplog)
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 2 * MAX_FACT_LENGTH
    fields = vars(record)
    assert (fields["event"], fields["model"], fields["served"]) == ("model not served", "nope", "nope")
    assert fields["servers"].startswith(f"{A} serves ")
    assert "and 991 more" in fields["servers"]


# Silent by default


def test_nothing_is_written_to_stderr_without_logging_configuration() -> None:
    assert _stderr("") == ""


def test_basic_config_shows_notices_and_decisions() -> None:
    output = _stderr("logging.basicConfig(format='%(name)s: %(message)s')")
    assert output.splitlines() == ["ollama_compat: a notice", "ollama_compat.dispatch: decided model='smol'"]


def _stderr(setup: str) -> str:
    program = f"""
import logging
{setup}
from ollama_compat.telemetry.log import log_decision
from ollama_compat.telemetry.notices import Notices
Notices().notice("event", "subject", "a notice")
log_decision("decided", model="smol")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stderr


def test_only_telemetry_log_uses_the_logging_module() -> None:
    folder = Path(ollama_compat.__file__).parent
    users = [path for path in folder.rglob("*.py") if re.search(r"getLogger|\blogging\b", path.read_text("utf-8"))]
    assert [path.name for path in users] == ["log.py"]
