"""The state folder of the launcher, and the lock that allows one launcher at a time.

`$VLLM_LAUNCH_STATE`, else `$XDG_STATE_HOME/vllm-launch`, else `~/.local/state/vllm-launch` (XDG Base Directory
Specification 0.8). Only its owner can read it.
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
    """The path of the state folder. It may not exist yet."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    # The specification requires absolute paths and ignores others.
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "vllm-launch"


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Convert an `OSError` in the state folder to a `LaunchError`. `what`: the object that is written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free space on its disk" if full else "Make it writable for this user"
        raise LaunchError(
            f"{what} cannot be written in {state_folder()}: {error.strerror}. "
            f"{advice}, or set another folder in {VARIABLE}."
        ) from error


@contextlib.contextmanager
def exclusive_lock(report: Report) -> Iterator[None]:
    """The lock for starting and stopping servers. If another launcher holds it, report that and wait.

    The lock is released when this program ends in any way. It is not reentrant: acquiring it twice deadlocks.
    Raises `LaunchError` if the state folder is not writable.
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
