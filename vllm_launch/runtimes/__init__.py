"""Ways to run a server: as a container (`containers`) or as a process of this machine (`processes`), one interface."""

from .base import Instance, LaunchError, Runtime, State

__all__ = ["Instance", "LaunchError", "Runtime", "State"]
