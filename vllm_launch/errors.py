"""The exception of this package. It imports nothing, so every module can import it."""

from __future__ import annotations


class LaunchError(RuntimeError):
    """An operation failed. The message contains the operation, the server, the cause and the fix."""
