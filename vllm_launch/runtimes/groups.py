"""A vLLM server as a group of processes: how it is started, told from others, asked to end, and killed.

A vLLM server is a family of processes (API server, engine core, workers). Each family is started in a session of its
own, led by `guard`. It is asked to end through the guard, and killed as a whole, so that no engine core is left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..servers import Server
from . import guard

LOG_BYTES = 16 * 1024 * 1024
"""A log of this length becomes `<log>.1`, so that a server has twice as much at most."""
_KILLED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.05

# These say whom a client asks, or how this launcher works. A server that inherited them would take the client's key as
# its own (VLLM_API_KEY), and would warn about the others.
_NOT_THE_SERVERS = (
    "VLLM_API_KEY",
    "VLLM_URLS",
    "VLLM_MODEL_MAP",
    "VLLM_FAILOVER",
    "VLLM_LIMITS",
    "VLLM_GENERATE_RATE",
    "VLLM_CHAT_RATE",
    "VLLM_EMBED_RATE",
    "VLLM_MAX_CONCURRENT",
    "VLLM_LAUNCH_STATE",
    "VLLM_PYTHON",
)


class Identity(NamedTuple):
    """One process and no other: its number may be another's later, its number and start together never."""

    pid: int
    start_time: int
    """In clock ticks since the machine's start."""

    @property
    def runs(self) -> bool:
        """Whether this very process runs."""
        return guard.start_time(self.pid) == self.start_time


def identity(pid: int) -> Identity | None:
    """The process that has this number now; None where there is none."""
    started = guard.start_time(pid)
    return None if started is None else Identity(pid, started)


def environment(server: Server) -> dict[str, str]:
    """What the server's environment is: this program's without what is not for it, its GPUs, its variables, its key.

    Raises `LaunchError` where the file of its key does not hold one.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_THE_SERVERS}
    gpus = server.gpus if isinstance(server.gpus, tuple) else ()
    # In the order that nvidia-smi numbers them in, and not, as by default, the fastest first (CUDA programming guide).
    numbers = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    chosen = numbers if gpus else {}
    key = server.key()
    return {**inherited, **chosen, **server.env, **({} if key is None else {"VLLM_API_KEY": key})}


def spawn(
    command: list[str],
    env: Mapping[str, str],
    log: Path,
    *,
    status: Path = Path(os.devnull),
    log_bytes: int = LOG_BYTES,
) -> subprocess.Popen[bytes]:
    """Start the command under a guard, whose process is returned; the log is begun anew.

    The process's `stdin` is the pipe that holds the server: see `guard`. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{log}.1")
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(log), str(log_bytes), str(status), *command]
    with open(log, "wb", opener=_private) as told_by_the_guard:
        return subprocess.Popen(
            guarded,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=told_by_the_guard,
            env=env,
            start_new_session=True,
        )


def runs(group: int) -> bool:
    """Whether any process of the group runs. One that has ended but that nobody has collected does not count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return sys.platform != "linux" or bool(guard.members(group))


def ask_to_end(group: int) -> None:
    """Send SIGTERM to the group's guard, which hands it on; to all of the group where the guard was killed.

    Nothing where the group is gone. Raises `PermissionError` on another user's.
    """
    guarded = sys.platform != "linux" or guard.start_time(group) is not None
    with contextlib.suppress(ProcessLookupError):
        (os.kill if guarded else os.killpg)(group, signal.SIGTERM)


def kill(group: int) -> None:
    """Send SIGKILL to the whole group; nothing where it is gone. Raises `PermissionError` on another user's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def await_end(group: int, deadline: float, collect: Callable[[], object]) -> None:
    """Wait until a group that was asked to end is gone, and kill it at the deadline (`time.monotonic`).

    `collect` takes note of a leader that has ended, where that is a child of this program.
    """
    while runs(group):
        if time.monotonic() > deadline:
            kill(group)
            break
        collect()
        time.sleep(_LOOK_EVERY_S)
    gone_by = time.monotonic() + _KILLED_WITHIN_S
    while runs(group) and time.monotonic() < gone_by:  # killed processes take a moment to go
        time.sleep(_LOOK_EVERY_S)
    collect()


def how_it_ended(status: int) -> str:
    """An exit status in words; a negative one is a signal's number."""
    if status >= 0:
        return f"with status {status}"
    try:
        killed = signal.Signals(-status)
    except ValueError:  # a real-time signal has no name
        return f"by signal {-status}"
    return f"by {killed.name}" + (", as when memory runs out" if killed is signal.SIGKILL else "")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, 0o600)
