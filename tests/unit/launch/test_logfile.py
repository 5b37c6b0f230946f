"""Reading a rotated log as one text."""

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
def test_read_returns_the_last_lines(log, lines, text):
    assert read(log, lines) == text
    assert list(follow(log, lines, lambda: False)) == text.splitlines()


def test_read_counts_a_last_line_without_newline(log):
    log.write_text("ree\nfour\nfi")
    assert read(log, 2) == "four\nfi"
    assert list(follow(log, 2, lambda: False)) == ["four", "fi"]


def test_lines_end_only_at_newlines(log):
    log.write_text("ree\nfo\u2028ur\x0b\x85\n")
    assert read(log, 1) == "fo\u2028ur\x0b\x85\n"
    assert list(follow(log, 1, lambda: False)) == ["fo\u2028ur\x0b\x85"]


def test_truncated_character_is_replaced(log):
    log.write_bytes("가".encode()[:2])
    assert read(log, 1) == "th\ufffd"


def test_read_returns_lines_across_blocks(tmp_path):
    text = "".join(f"{number:0200}\n" for number in range(2000))
    (tmp_path / "log").write_text(text)
    assert read(tmp_path / "log", 1500) == "".join(text.splitlines(keepends=True)[500:])


def test_read_returns_empty_without_a_log(tmp_path):
    assert read(tmp_path / "log") == ""
    assert list(follow(tmp_path / "log", None, lambda: False)) == []


def test_follow_waits_for_a_log_that_does_not_exist_yet(tmp_path):
    looks = iter((True, True, False))

    def runs():
        if not (tmp_path / "log").exists():
            (tmp_path / "log").write_text("hello\n")
        return next(looks, False)

    assert list(follow(tmp_path / "log", None, runs)) == ["hello"]
