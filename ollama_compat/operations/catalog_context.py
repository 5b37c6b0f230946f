"""What an operation is handed that is not about one served model: the servers and the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..profiles.resolver import ModelResolver
from ..servers.registry import ServerRegistry


@dataclass(frozen=True)
class CatalogContext:
    """All servers and all names of a client, and one request's body."""

    path: str
    body: Mapping[str, Any]
    fleet: ServerRegistry
    names: ModelResolver
    timeout_s: float | None = None
    """How long the caller waits for anything; None: for ever."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers, as the settings name them."""
        return self.fleet.urls
