"""Outlives a launcher, and removes the containers that it left behind unready, however it went.

    python container_guard.py <label=value of its containers>

Its standard input is a pipe that the launcher holds open and never writes to: the pipe's end is the launcher's end,
since even a killed program's pipes are closed. Containers that the engine restarts have been kept, and stay; so do
those that ended by themselves, whose logs say why.
"""

from __future__ import annotations

import contextlib
import sys
import time

_SWEEPS = 4
_TRIES = 120
_EVERY_S = 1.0


def main(label: str) -> None:
    """Wait for the launcher's end, then remove what it did not keep."""
    sys.stdin.read()
    swept = 0
    for _ in range(_TRIES):  # the engine may be away, and come back with its containers running
        with contextlib.suppress(Exception):
            sweep(label)
            swept += 1
        if swept == _SWEEPS:  # more than once: it may still have been making one
            return
        time.sleep(_EVERY_S)


def sweep(label: str) -> None:
    """Remove the containers with this label that run, or are about to, and that the engine does not restart."""
    import docker

    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
        kept = container.attrs["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no")
        if not kept and container.status not in ("exited", "dead"):
            container.remove(force=True, v=True)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
