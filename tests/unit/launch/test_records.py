"""The records of servers: atomic writes, and reading."""

from __future__ import annotations

import os

import pytest

from vllm_launch.presets import PRESETS
from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.groups import Identity, identity
from vllm_launch.runtimes.records import Record, Records, Status, boot_id

NO_PROCESS = Identity(0, 0)


@pytest.fixture
def records():
    made = Records()
    made.begin("vllm-llm")
    return made


def record(name="vllm-llm", **fields):
    return Record(
        **{
            "server": PRESETS[name],
            "leader": NO_PROCESS,
            "launcher": NO_PROCESS,
            "boot_id": boot_id(),
            "log": "/tmp/log",
            "started_at": 1.5,
            **fields,
        }
    )


@pytest.mark.parametrize("name", PRESETS)
def test_record_survives_write_and_read(records, name):
    records.write(record(name))
    assert records.read(name) == record(name)
    assert records.read(name).server.digest == PRESETS[name].digest


def test_records_are_sorted_by_name(records):
    for name in sorted(PRESETS, reverse=True):
        records.write(record(name))
    assert [found.name for found in records.all()] == sorted(PRESETS)


def test_on_port_returns_the_running_server(records):
    records.write(record("vllm-llm-cpu"))
    assert records.on_port(8001) is None
    records.write(record("vllm-llm", leader=identity(os.getpid())))
    assert (records.on_port(8001), records.on_port(8002)) == ("vllm-llm", None)


def test_no_records_before_the_first_write(records):
    assert (records.read("vllm-llm"), records.all(), records.status("vllm-llm")) == (None, [], Status())


def test_failed_write_keeps_the_old_record_and_no_temporary_file(records, state, monkeypatch):
    records.write(record())

    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LaunchError, match="The record of vllm-llm cannot be written"):
        records.write(record(kept=True))
    assert not records.read("vllm-llm").kept
    assert sorted(path.name for path in (state / "processes").iterdir()) == ["vllm-llm.json", "vllm-llm.status"]


def test_invalid_record_error_names_the_file(records, state):
    (state / "processes" / "vllm-llm.json").write_text("{}")
    with pytest.raises(LaunchError, match=r"vllm-llm\.json, cannot be read.*another version"):
        records.all()


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, Status(status=0), "with status 0"),
        ({}, Status(status=-15), "by SIGTERM"),
        ({}, Status(status=-40), "by signal 40"),
        ({}, Status(status=-9), "by SIGKILL, as when memory runs out"),
        ({}, Status(abandoned=True), "with the launcher that was starting it"),
        ({}, Status(), "killed together with its guard process"),
        ({"boot_id": "another"}, Status(), "when the machine was restarted"),
        ({"leader": Identity(os.getpid(), 0)}, Status(status=1), "with status 1"),
    ],
)
def test_ended_describes_the_exit(fields, status, words):
    assert record(**fields).ended(status) == words
