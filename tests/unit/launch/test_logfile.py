"""A log in two files is read as one text."""

from __future__ import annotations

import pytest

from vllm_launch.runtimes.logfile import follow, read


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log.1").write_text("one\ntwo\nth")
    (tmp_path / "log").write_text("ree\nfour\n")
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (None, "one\ntwo\nthree\nfour\n"),
        (0, ""),
        (1, "four\n"),
        (2, "three\nfour\n"),
        (9, "one\ntwo\nthree\nfour\n"),
    ],
)
def test_its_last_lines(log, lines, text):
    assert read(log, lines) == text
    assert list(follow(log, lines, lambda: False)) == text.splitlines()


def test_a_last_line_without_an_end_counts(log):
    log.write_text("ree\nfour\nfi")
    assert read(log, 2) == "four\nfi"
    assert list(follow(log, 2, lambda: False)) == ["four", "fi"]


def test_lines_end_at_newlines_alone(log):
    log.write_text("ree\nfo\u2028ur\x0b\x85\n")
    assert read(log, 1) == "fo\u2028ur\x0b\x85\n"
    assert list(follow(log, 1, lambda: False)) == ["fo\u2028ur\x0b\x85"]


def test_a_character_that_is_cut_does_no_harm(log):
    log.write_bytes("가".encode()[:2])
    assert read(log, 1) == "th\ufffd"


def test_more_lines_than_are_read_at_once(tmp_path):
    text = "".join(f"{number:0200}\n" for number in range(2000))
    (tmp_path / "log").write_text(text)
    assert read(tmp_path / "log", 1500) == "".join(text.splitlines(keepends=True)[500:])


def test_no_log(tmp_path):
    assert read(tmp_path / "log") == ""
    assert list(follow(tmp_path / "log", None, lambda: False)) == []


def test_a_log_that_is_written_later_is_followed(tmp_path):
    looks = iter((True, True, False))

    def runs():
        if not (tmp_path / "log").exists():
            (tmp_path / "log").write_text("hello\n")
        return next(looks, False)

    assert list(follow(tmp_path / "log", None, runs)) == ["hello"]
