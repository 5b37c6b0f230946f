"""Ways to run a server: as a container (`containers`) or as a process of this machine (`processes`), one interface."""

from __future__ import annotations

from .base import Instance, LaunchError, Report, Runtime, RuntimeName, State

__all__ = ["Instance", "LaunchError", "Runtime", "RuntimeName", "State", "available_runtimes", "open_runtime"]


def open_runtime(name: RuntimeName, python: str | None = None) -> Runtime:
    """The runtime of this name. `python`: the Python that has vLLM, for processes. Raises `LaunchError`."""
    if name == "docker":
        from .containers import Containers

        return Containers()
    from .processes import Processes

    return Processes(python=python)


def available_runtimes(report: Report) -> list[Runtime]:
    """The runtimes that there are on this machine: processes always, Docker where its engine answers.

    One that ought to answer and does not is told to `report`: its servers may well run.
    """
    from . import engine

    found: list[Runtime] = [open_runtime("process")]
    try:
        found.append(open_runtime("docker"))
    except LaunchError as error:
        if engine.is_expected():
            report(f"Containers are left out. {error}")
    return found
