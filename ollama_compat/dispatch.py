"""From a request of the Ollama API to the exchange that answers it: which backend, which server, which operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .call import Call, Memory
from .guarding import Guard, Question
from .mapping.errors import response_error
from .mapping.model_names import is_cloud
from .operations import catalog, profiles
from .operations.catalog_context import CatalogContext
from .operations.chat import chat
from .operations.embed import embed, embeddings
from .operations.generate import generate
from .operations.systemone import systemone
from .profiles.resolver import ModelResolver
from .profiles.store import ProfileFile, Profiles, data_folder
from .servers.backends import Backends
from .servers.registry import ServerRegistry
from .settings import Settings, named
from .steps import Clock, Steps, SystemClock
from .telemetry.stats import Stats

OPERATIONS: Mapping[str, Callable[[Call], Steps[None]]] = {
    "/api/chat": chat,
    "/api/generate": generate,
    "/api/embed": embed,
    "/api/embeddings": embeddings,
    "/api/show": catalog.show,
    "/api/pull": catalog.pull,
    "/v1/systemone": systemone,
}
"""What is asked of one model."""

CATALOG_OPERATIONS: Mapping[str, Callable[[CatalogContext], Steps[None]]] = {
    "/api/tags": catalog.tags,
    "/api/ps": catalog.ps,
    "/api/create": profiles.create,
    "/api/copy": profiles.copy,
    "/api/delete": profiles.delete,
}
"""What is asked of all servers, or of the names."""

FAILOVER = frozenset(("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"))
"""What another model may answer in place of the one that was asked for."""

REFUSED: Mapping[str, str] = {
    "/api/push": "there is no registry behind vLLM: upload the model with the tools of the hub it comes from",
    "/api/blobs": "vLLM loads a model from a folder or a hub when it starts",
}
"""What vLLM can't do, and what to do instead."""


class Dispatcher:
    """The vLLM half of a client: settings, servers, and what was learnt of them. Shared by all its calls."""

    def __init__(self, settings: Settings, clock: Clock | None = None, created: Profiles | None = None) -> None:
        """`clock` is the system's, and `created` the file in the user's data folder, unless a test brings its own."""
        self.settings = settings
        self.clock = clock or SystemClock()
        self.fleet = ServerRegistry(settings.vllm_urls, self.clock)
        self.memory = Memory()
        self.names = ModelResolver(settings, created or ProfileFile(data_folder()))
        self.routes = Backends(settings, self.fleet, self.names, self.memory, self.clock)
        self.stats = Stats(self.clock, named(settings))
        self.guard = Guard(settings, self.fleet, self.routes, self.memory, self.clock)
        self.guard.observers.append(self.stats)

    def watched_as(self, other: Dispatcher) -> None:
        """Have its calls told to whom `other` told its own."""
        self.stats, self.guard.observers = other.stats, other.guard.observers

    def exchange(self, path: str, body: Mapping[str, Any] | None, timeout_s: float | None = None) -> Steps[None] | None:
        """The exchange that answers the request, or None where Ollama answers it: cloud models, the web tools.

        `timeout_s` is the caller's own: learning who serves the model, waiting for a turn and between retries stay
        within it.
        """
        body = body or {}
        if any(is_cloud(str(body.get(field, ""))) for field in ("model", "source", "from")):
            name = str(body.get("model", ""))
            if path not in FAILOVER or not self.routes.chain(name):
                return None
        for start, instead in REFUSED.items():
            if path == start or path.startswith(f"{start}/"):
                return _refused(f"{start} is not available on vLLM: {instead}")
        if path in CATALOG_OPERATIONS:
            return CATALOG_OPERATIONS[path](CatalogContext(path, body, self.fleet, self.names, timeout_s))
        if path not in OPERATIONS:
            return None
        return self.guard.answered(Question(path, body, OPERATIONS[path], timeout_s))

    def locate(self, name: str, timeout_s: float | None = None) -> Steps[None]:
        """Where a model is served: one part, `{"url": base URL without /v1}`. `timeout_s` is the caller's own."""
        target = yield from self.routes.find("/api/chat", name, left_s=timeout_s)
        yield {"url": target.url if target is not None else ""}


def _refused(text: str) -> Steps[None]:
    yield from ()  # a generator, so that a stream is refused where streams are: when it is read
    raise response_error(text, 501)
