"""The guard process of a launcher: when the launcher ends, it removes the launcher's containers that are not ready.

    python container_guard.py <label=value of the launcher's containers>

Standard input is a pipe that the launcher keeps open and never writes to. The pipe closes when the launcher ends, even
if it is killed. Containers with a restart policy are detached from the launcher and stay. Containers that have exited
also stay, so that their logs are readable.
"""

from __future__ import annotations

import contextlib
import sys
import time

_SWEEPS = 4
_TRIES = 120
_EVERY_S = 1.0


def main(label: str) -> None:
    """Wait for the launcher's end, then remove its containers that are not detached."""
    sys.stdin.read()
    swept = 0
    for _ in range(_TRIES):  # the engine may be down, and restart with its containers running
        with contextlib.suppress(Exception):
            sweep(label)
            swept += 1
        if swept == _SWEEPS:  # several sweeps: the launcher may have been creating a container
            return
        time.sleep(_EVERY_S)


def sweep(label: str) -> None:
    """Remove the containers with this label that run or start, and that have no restart policy."""
    import docker

    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
        kept = container.attrs["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no")
        if not kept and container.status not in ("exited", "dead"):
            container.remove(force=True, v=True)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
