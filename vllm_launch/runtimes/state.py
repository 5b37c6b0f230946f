"""The folder where the launcher remembers what it has started, and the lock that lets one launcher work at a time.

`$VLLM_LAUNCH_STATE`, else `$XDG_STATE_HOME/vllm-launch`, else `~/.local/state/vllm-launch` (XDG Base Directory
Specification 0.8). Only its owner can look into it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .base import LaunchError, Report

VARIABLE = "VLLM_LAUNCH_STATE"


def state_folder() -> Path:
    """Where the launcher's state is; it may not be there yet."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    # "All paths set in these environment variables must be absolute", or are ignored.
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "vllm-launch"


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns an `OSError` in the state folder into a `LaunchError`. `what` can't be written then."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Make room on its disk" if full else "Make it writable for this user"
        raise LaunchError(
            f"{what} can't be written in {state_folder()}: {error.strerror}. "
            f"{advice}, or name another folder in {VARIABLE}."
        ) from error


@contextlib.contextmanager
def exclusive_lock(report: Report) -> Iterator[None]:
    """Nobody else starts or stops servers meanwhile; another launcher that does is waited for, which `report` is told.

    The lock ends with this program, however it ends. It must not be taken twice: who has it would wait for itself.
    Raises `LaunchError` where the state folder can't be written.
    """
    with writing("The lock"):
        state_folder().mkdir(parents=True, mode=0o700, exist_ok=True)
        lock = os.open(state_folder() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Waiting for another vllm-launch (process {_holder(lock)}).")
            fcntl.flock(lock, fcntl.LOCK_EX)
        with writing("The lock"):
            os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
        yield
    finally:
        os.close(lock)


def _holder(lock: int) -> str:
    return os.pread(lock, 20, 0).decode(errors="replace").strip() or "?"
