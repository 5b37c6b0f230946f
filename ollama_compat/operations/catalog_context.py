"""What an operation receives that concerns all servers or the names of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..profiles.resolver import ModelResolver
from ..servers.registry import ServerRegistry


@dataclass(frozen=True, slots=True)
class CatalogContext:
    """All servers and all names of a client, and one request's body."""

    path: str
    body: Mapping[str, Any]
    registry: ServerRegistry
    resolver: ModelResolver
    timeout_s: float | None = None
    """The caller's timeout (seconds); None: none."""
