"""Stands between a program and its vLLM server, and ends the server when the program is gone, however it went.

    python guard.py <command of the server>

It leads the server's process group. Its standard input is a pipe that the program holds open and never writes to: the
pipe's end is the program's end, since even a killed program's pipes are closed. This file needs nothing but Python.
"""

import os
import select
import signal
import subprocess
import sys
import time

_LOOK_EVERY = 0.2
_GRACE = 2.0


def main(command: list[str]) -> int:
    """Runs the command and returns its exit status, unless the program goes first."""
    # These come to the whole group and are meant for the server. Handled, not ignored: the server would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while server.poll() is None:
        program_is_gone, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY)
        if program_is_gone:
            os.killpg(0, signal.SIGTERM)
            time.sleep(_GRACE)
            os.killpg(0, signal.SIGKILL)
    status = server.returncode
    if status < 0:  # end in the same way, so that the program can tell
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
