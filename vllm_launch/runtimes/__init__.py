"""Ways to run a server: as a container (`containers`) or as a process of this machine (`processes`), one interface."""

from __future__ import annotations

import contextlib

from .base import Instance, LaunchError, Runtime, RuntimeName, State

__all__ = ["Instance", "LaunchError", "Runtime", "RuntimeName", "State", "answering", "opened"]


def opened(name: RuntimeName, python: str | None = None) -> Runtime:
    """The runtime of this name. `python`: the Python that has vLLM, for processes. Raises `LaunchError`."""
    if name == "docker":
        from .containers import Containers

        return Containers()
    from .processes import Processes

    return Processes(python=python)


def answering() -> list[Runtime]:
    """The runtimes that there are on this machine: processes always, Docker where its engine answers."""
    found: list[Runtime] = [opened("process")]
    with contextlib.suppress(LaunchError):
        found.append(opened("docker"))
    return found
