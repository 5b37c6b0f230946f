"""A lock between processes, so that two test runs do not set up the test bed at the same time."""

import contextlib
from collections.abc import Iterator

from testbed.paths import HOME


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock; wait for it if another process holds it."""
    import fcntl  # missing on Windows, where another error message comes first

    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting: another process is setting up the test bed.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
