"""Records: written as a whole, read back as they were."""

from __future__ import annotations

import os

import pytest

from vllm_launch.presets import PRESETS
from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.groups import Identity, identity
from vllm_launch.runtimes.records import Record, Records, Status, boot_id

NOBODY = Identity(0, 0)


@pytest.fixture
def records():
    made = Records()
    made.begin("vllm-llm")
    return made


def record(name="vllm-llm", **fields):
    return Record(
        **{
            "server": PRESETS[name],
            "leader": NOBODY,
            "launcher": NOBODY,
            "boot_id": boot_id(),
            "log": "/tmp/log",
            "started_at": 1.5,
            **fields,
        }
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_record_is_read_as_it_was_written(records, name):
    records.write(record(name))
    assert records.read(name) == record(name)
    assert records.read(name).server.digest == PRESETS[name].digest


def test_they_are_listed_by_name(records):
    for name in sorted(PRESETS, reverse=True):
        records.write(record(name))
    assert [found.name for found in records.all()] == sorted(PRESETS)


def test_the_server_of_a_port_is_the_one_that_runs(records):
    records.write(record("vllm-llm-cpu"))
    assert records.on_port(8001) is None
    records.write(record("vllm-llm", leader=identity(os.getpid())))
    assert (records.on_port(8001), records.on_port(8002)) == ("vllm-llm", None)


def test_none_is_there_before_the_first(records):
    assert (records.read("vllm-llm"), records.all(), records.status("vllm-llm")) == (None, [], Status())


def test_a_write_that_fails_leaves_the_old_one_and_no_rest(records, state, monkeypatch):
    records.write(record())

    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LaunchError, match="The record of vllm-llm can't be written"):
        records.write(record(kept=True))
    assert not records.read("vllm-llm").kept
    assert sorted(path.name for path in (state / "processes").iterdir()) == ["vllm-llm.json", "vllm-llm.status"]


def test_one_that_cannot_be_read_is_named(records, state):
    (state / "processes" / "vllm-llm.json").write_text("{}")
    with pytest.raises(LaunchError, match=r"vllm-llm\.json, can't be read.*another version"):
        records.all()


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, Status(status=0), "with status 0"),
        ({}, Status(status=-15), "by SIGTERM"),
        ({}, Status(status=-40), "by signal 40"),
        ({}, Status(status=-9), "by SIGKILL, as when memory runs out"),
        ({}, Status(abandoned=True), "with the launcher that was starting it"),
        ({}, Status(), "killed together with the process that watched it"),
        ({"boot_id": "another"}, Status(), "when the machine was restarted"),
        ({"leader": Identity(os.getpid(), 0)}, Status(status=1), "with status 1"),
    ],
)
def test_how_a_server_ended_in_words(fields, status, words):
    assert record(**fields).ended(status) == words
