"""The runtimes: `containers` runs servers in Docker, `processes` as processes. Both have one interface (`base`)."""

from __future__ import annotations

from .base import Instance, LaunchError, Report, Runtime, RuntimeName, State

__all__ = ["Instance", "LaunchError", "Runtime", "RuntimeName", "State", "available_runtimes", "open_runtime"]


def open_runtime(name: RuntimeName, python: str | None = None) -> Runtime:
    """Create the runtime of this name. `python`: the Python with vLLM, for processes. Raises `LaunchError`."""
    if name == "docker":
        from .containers import Containers

        return Containers()
    from .processes import Processes

    return Processes(python=python)


def available_runtimes(report: Report) -> list[Runtime]:
    """The runtimes that are available on this machine: processes, and Docker if its engine answers.

    If an engine is expected but does not answer, `report` receives a message: its servers may still run.
    """
    from . import engine

    found: list[Runtime] = [open_runtime("process")]
    try:
        found.append(open_runtime("docker"))
    except LaunchError as error:
        if engine.is_expected():
            report(f"Containers are left out. {error}")
    return found
