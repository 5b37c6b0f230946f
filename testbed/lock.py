"""One process at a time sets up the test bed: two test runs may well start together."""

import contextlib
from collections.abc import Iterator

from testbed.paths import HOME


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Waits until no other process is setting up, and keeps others waiting meanwhile."""
    import fcntl  # not on Windows, where the message that says so must come first

    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that is setting up the test bed.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
