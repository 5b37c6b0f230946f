"""Reading a log that `guard` bounds: `<log>.1` first, where there is one, then `<log>`, as one text."""

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
    """What a log holds, or the last lines of it; empty where there is none."""
    with contextlib.ExitStack() as opened:
        return _decoded(_last(_files(log, opened), lines))


def follow(log: Path, lines: int | None, runs: Callable[[], bool]) -> Iterator[str]:
    """What a log holds, or the last lines of it, and then what is written, line by line, as long as `runs()`."""
    with contextlib.ExitStack() as opened:
        files = _files(log, opened)
        rest = _last(files, lines)
        file = files[-1] if files else None
        for older in files[:-1]:
            older.close()
        while True:
            # Asked before the look: what is written in between is found the next time.
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
    """The older and the newer file, those that there are."""
    files: list[BinaryIO] = []
    for path in (log, Path(f"{log}.1")):
        with contextlib.suppress(FileNotFoundError):
            file = opened.enter_context(path.open("rb"))
            # The newer one may have become the older one since it was opened.
            if not any(os.path.samestat(os.fstat(file.fileno()), os.fstat(other.fileno())) for other in files):
                files.insert(0, file)
    return files


def _last(files: list[BinaryIO], lines: int | None) -> bytes:
    """The last lines of several files as one text. Each is left where what was read of it ends."""
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
    """Whether the log is another file by now."""
    try:
        now = log.stat()
    except FileNotFoundError:
        return False
    return file is None or not os.path.samestat(os.fstat(file.fileno()), now)


def _reopened(file: BinaryIO | None, log: Path, opened: contextlib.ExitStack) -> BinaryIO | None:
    """The file that the log is now; the old one is let go, so that it takes no room on the disk."""
    if file is not None:
        file.close()
    with contextlib.suppress(FileNotFoundError):
        return opened.enter_context(log.open("rb"))
    return None


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")
