"""Starts, identifies, stops and kills the process group of a vLLM server.

A vLLM server consists of several processes (API server, engine core, workers). They run in a separate session, whose
leader is `guard`. The stop signal goes through the guard. A kill hits the whole group, so that no engine core remains.
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
"""The size at which a log is rotated to `<log>.1`. A server's logs use at most twice as much."""
_KILLED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.05

# The variables of clients and of this launcher. A server that inherited them would use the client's key as its own
# (VLLM_API_KEY), and would log warnings about the others.
_NOT_INHERITED = (
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
    """The identity of a process. Another process may get the same pid later, but not with the same start time."""

    pid: int
    start_time: int
    """Clock ticks since the machine's start."""

    @property
    def runs(self) -> bool:
        """Whether this process runs."""
        return guard.start_time(self.pid) == self.start_time


def identity(pid: int) -> Identity | None:
    """The identity of the process with this pid; None if it does not run."""
    started = guard.start_time(pid)
    return None if started is None else Identity(pid, started)


def environment(server: Server) -> dict[str, str]:
    """The server's environment: the inherited variables, its GPUs, its variables, and its key.

    Raises `LaunchError` if the key file is invalid.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    gpus = server.gpus if isinstance(server.gpus, tuple) else ()
    # CUDA numbers GPUs by speed by default; nvidia-smi uses the PCI order (CUDA programming guide).
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
    """Start the command under a guard and return the guard's process. The log is truncated.

    The process's `stdin` is the pipe that ties the server to this program: see `guard`. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{log}.1")
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(log), str(log_bytes), str(status), *command]
    with open(log, "wb", opener=_private) as guard_errors:
        return subprocess.Popen(
            guarded,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=guard_errors,
            env=env,
            start_new_session=True,
        )


def runs(group: int) -> bool:
    """Whether any process of the group runs. Zombies do not count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return sys.platform != "linux" or bool(guard.members(group))


def ask_to_end(group: int) -> None:
    """Send SIGTERM to the group's guard, which forwards it; if the guard was killed, to the whole group.

    Does nothing if the group is gone. Raises `PermissionError` for another user's group.
    """
    guarded = sys.platform != "linux" or guard.start_time(group) is not None
    with contextlib.suppress(ProcessLookupError):
        (os.kill if guarded else os.killpg)(group, signal.SIGTERM)


def kill(group: int) -> None:
    """Send SIGKILL to the whole group, if it exists. Raises `PermissionError` for another user's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def await_end(group: int, deadline: float, collect: Callable[[], object]) -> None:
    """Wait until a terminated group is gone, and kill it at the deadline (`time.monotonic`).

    `collect` reaps the group's leader if it is a child of this program.
    """
    while runs(group):
        if time.monotonic() > deadline:
            kill(group)
            break
        collect()
        time.sleep(_LOOK_EVERY_S)
    gone_by = time.monotonic() + _KILLED_WITHIN_S
    while runs(group) and time.monotonic() < gone_by:  # killed processes need a moment to exit
        time.sleep(_LOOK_EVERY_S)
    collect()


def how_it_ended(status: int) -> str:
    """A description of an exit status. A negative status is a signal's number."""
    if status >= 0:
        return f"with status {status}"
    try:
        killed = signal.Signals(-status)
    except ValueError:  # real-time signals have no names
        return f"by signal {-status}"
    return f"by {killed.name}" + (", as when memory runs out" if killed is signal.SIGKILL else "")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, 0o600)
