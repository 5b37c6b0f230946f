"""The error of this package. A leaf: whatever a module imports, it can import this too."""

from __future__ import annotations


class LaunchError(RuntimeError):
    """Something can't be done. The message says what, of which server, and what to do about it."""
