"""Shows the progress of long tasks: one row for each, live on a terminal, plain lines otherwise.

with board() as rows:
    row = rows.add("Installing vLLM")
    row.note("torch")
    row.done("6.4 GB")
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

# Without a terminal, a row prints a line this often (seconds).
_HEARTBEAT = 20.0
_NOTE_WIDTH = 60


class Board:
    """The rows of the running tasks. Finished rows become permanent lines."""

    def __init__(self, console: Console, live: Progress | None) -> None:
        """`live` is None without a terminal."""
        self.console = console
        self.live = live

    def add(self, title: str) -> Row:
        """Start a new row."""
        return Row(self, title)


class Row:
    """One running task."""

    def __init__(self, board: Board, title: str) -> None:
        """Shows the row."""
        self._board = board
        self._title = title
        self._since = self._printed_at = time.monotonic()
        self._task: TaskID | None = None
        if board.live:
            self._task = board.live.add_task(escape(title), note="")
        else:
            board.console.print(f"… {escape(title)}", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show what the task does now."""
        short = text if len(text) <= _NOTE_WIDTH else text[: _NOTE_WIDTH - 1] + "…"
        if self._board.live and self._task is not None:
            self._board.live.update(self._task, note=escape(short))
            return
        now = time.monotonic()
        if now - self._printed_at >= _HEARTBEAT:
            self._printed_at = now
            line = f"  {self._title}, {now - self._since:.0f} s: {short}"
            self._board.console.print(escape(line), highlight=False, soft_wrap=True)

    def done(self, result: str = "") -> None:
        """Replace the row by a line with the duration and the result."""
        self._hide()
        took = f"{time.monotonic() - self._since:.0f} s"
        details = f"{took}, {result}" if result else took
        self._board.console.print(
            f"[green]✓[/] {escape(self._title)} [dim]({escape(details)})[/]", highlight=False, soft_wrap=True
        )

    def failed(self) -> None:
        """Replace the row by a line that marks the failure."""
        self._hide()
        took = f"{time.monotonic() - self._since:.0f} s"
        self._board.console.print(f"[red]✗[/] {escape(self._title)} [dim]({took})[/]", highlight=False, soft_wrap=True)

    def _hide(self) -> None:
        if self._board.live and self._task is not None:
            self._board.live.remove_task(self._task)


@contextlib.contextmanager
def board() -> Iterator[Board]:
    """A board on standard output."""
    console = Console()
    if not console.is_terminal:
        yield Board(console, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as live:
        yield Board(console, live)


@contextlib.contextmanager
def step(title: str) -> Iterator[Row]:
    """A board with one row. The caller calls `done`; an exception marks the row as failed."""
    with board() as rows:
        row = rows.add(title)
        try:
            yield row
        except BaseException:
            row.failed()
            raise
