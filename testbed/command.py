"""Runs a long command, reports its lines of output, and keeps its last lines for the error message."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class CommandError(RuntimeError):
    """A command failed. `output` contains its last lines."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        """`status`: the exit status. `output`: the last lines of the output."""
        super().__init__(f"`{' '.join(command)}` ended with status {status}:\n{output}")
        self.output = output


def run(
    command: Sequence[str], *, on_line: Callable[[str], None] | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run the command. Returns its output (the last 200 lines). Raises `CommandError` if it fails."""
    lines: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if on_line and line.strip():
                    on_line(line.strip())
        except BaseException:  # for example Ctrl-C: the command must not continue
            process.kill()
            raise
    if process.returncode:
        raise CommandError(command, process.returncode, "\n".join(list(lines)[-20:]))
    return "\n".join(lines)
