"""Reads a log that `guard` rotates: `<log>.1`, if it exists, and then `<log>`, as one text."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 64 * 1024
_LOOK_EVERY_S = 0.2


def read(log: Path, lines: int | None = None) -> str:
    """The content of a log, or its last lines; empty if the log does not exist."""
    with contextlib.ExitStack() as opened:
        return _decoded(_last(_files(log, opened), lines))


def follow(log: Path, lines: int | None, runs: Callable[[], bool]) -> Iterator[str]:
    """The lines of a log, or its last lines, and then each new line while `runs()`."""
    with contextlib.ExitStack() as opened:
        files = _files(log, opened)
        rest = _last(files, lines)
        file = files[-1] if files else None
        for older in files[:-1]:
            older.close()
        while True:
            # Checked before the read: the next read finds lines that are written in between.
            ends, moved = not runs(), _moved(file, log)
            *whole, rest = (rest + (file.read() if file else b"")).split(b"\n")
            yield from map(_decoded, whole)
            if whole:
                continue
            if moved:
                file = _reopened(file, log, opened)
            elif ends:
                break
            else:
                time.sleep(_LOOK_EVERY_S)
        if rest:
            yield _decoded(rest)


def _files(log: Path, opened: contextlib.ExitStack) -> list[BinaryIO]:
    """The older and the newer file, if they exist."""
    files: list[BinaryIO] = []
    for path in (log, Path(f"{log}.1")):
        with contextlib.suppress(FileNotFoundError):
            file = opened.enter_context(path.open("rb"))
            # A rotation may have renamed the newer file since it was opened.
            if not any(os.path.samestat(os.fstat(file.fileno()), os.fstat(other.fileno())) for other in files):
                files.insert(0, file)
    return files


def _last(files: list[BinaryIO], lines: int | None) -> bytes:
    """The last lines of several files as one text. Each file is left at the end of the text."""
    text = b""
    for file in reversed(files):
        position = end = file.seek(0, os.SEEK_END)
        while position and (lines is None or text.count(b"\n") <= lines):
            block = min(position, _BLOCK)
            position = file.seek(position - block)
            text = file.read(block) + text
        file.seek(end)
    if lines is None:
        return text
    kept = text.split(b"\n")
    last_is_whole = kept[-1] == b""
    return b"\n".join(kept[max(0, len(kept) - lines - last_is_whole) :])


def _moved(file: BinaryIO | None, log: Path) -> bool:
    """Whether a rotation has replaced the log."""
    try:
        now = log.stat()
    except FileNotFoundError:
        return False
    return file is None or not os.path.samestat(os.fstat(file.fileno()), now)


def _reopened(file: BinaryIO | None, log: Path, opened: contextlib.ExitStack) -> BinaryIO | None:
    """The current file of the log. The old file is closed, so that the disk space is freed."""
    if file is not None:
        file.close()
    with contextlib.suppress(FileNotFoundError):
        return opened.enter_context(log.open("rb"))
    return None


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")
