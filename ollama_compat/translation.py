"""From a request of the Ollama API to the exchange that answers it: which backend, which server, which operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from .errors import ModelGone, ServerUnreachable, model_required, response_error
from .exchange import Clock, Exchange, SystemClock
from .fleet import Fleet, Server, Target
from .models import canonical, is_cloud
from .names import Names
from .operations import catalog, profiles
from .operations.call import Call, Memory
from .operations.chat import chat
from .operations.decide import systemone
from .operations.embed import embed, embeddings
from .operations.generate import generate
from .operations.site import Site
from .settings import Settings
from .store import ProfileFile, Profiles, data_folder

OPERATIONS: Mapping[str, Callable[[Call], Exchange[None]]] = {
    "/api/chat": chat,
    "/api/generate": generate,
    "/api/embed": embed,
    "/api/embeddings": embeddings,
    "/api/show": catalog.show,
    "/api/pull": catalog.pull,
    "/v1/systemone": systemone,
}
"""What is asked of one model."""

SITE_OPERATIONS: Mapping[str, Callable[[Site], Exchange[None]]] = {
    "/api/tags": catalog.tags,
    "/api/ps": catalog.ps,
    "/api/create": profiles.create,
    "/api/copy": profiles.copy,
    "/api/delete": profiles.delete,
}
"""What is asked of all servers, or of the names."""

REFUSED: Mapping[str, str] = {
    "/api/push": "there is no registry behind vLLM: upload the model with the tools of the hub it comes from",
    "/api/blobs": "vLLM loads a model from a folder or a hub when it starts",
}
"""What vLLM can't do, and what to do instead."""


class Translation:
    """The vLLM half of a client: settings, servers, and what was learnt of them. Shared by all its calls."""

    def __init__(self, settings: Settings, clock: Clock | None = None, created: Profiles | None = None) -> None:
        """`clock` is the system's, and `created` the file in the user's data folder, unless a test brings its own."""
        self.settings = settings
        self.clock = clock or SystemClock()
        self.fleet = Fleet(settings.vllm_urls, self.clock)
        self.memory = Memory()
        self.names = Names(settings, created or ProfileFile(data_folder()))

    def exchange(self, path: str, body: Mapping[str, Any] | None) -> Exchange[None] | None:
        """The exchange that answers the request, or None where Ollama answers it: cloud models, the web tools."""
        body = body or {}
        if any(is_cloud(str(body.get(field, ""))) for field in ("model", "source", "from")):
            return None
        for start, instead in REFUSED.items():
            if path == start or path.startswith(f"{start}/"):
                return _refused(f"{start} is not available on vLLM: {instead}")
        if path in SITE_OPERATIONS:
            return SITE_OPERATIONS[path](Site(path, body, self.fleet, self.names))
        if path not in OPERATIONS:
            return None
        return self._call(path, body, str(body.get("model", "")))

    def _call(self, path: str, body: Mapping[str, Any], name: str) -> Exchange[None]:
        """One call of one model, on another server where the first turns out to be gone before it began to answer."""
        started = self.clock.ticks()
        failed: list[Server] = []
        trouble: Exception | None = None
        while True:
            target = yield from self.find(path, name, failed, trouble)
            profile = self.names.profile(name)
            call = Call(path, body, target, profile, self.clock, started, self.memory)
            try:
                with self.fleet.taking(target.server):
                    yield from OPERATIONS[path](call)
                return
            except (ServerUnreachable, httpx.ConnectTimeout) as problem:
                self.fleet.forget(target.server)
                self.memory.forget(target.url)
                failed.append(target.server)
                trouble = problem
            except ModelGone:  # it may have moved: learn anew what every server has
                for server in self.fleet.servers:
                    self.fleet.forget(server)
                    self.memory.forget(server.url)
                failed.append(target.server)

    def locate(self, name: str) -> Exchange[None]:
        """Where a model is served: one part, `{"url": base URL without /v1}`."""
        target = yield from self.find("/api/chat", name)
        yield {"url": target.url}

    def find(
        self, path: str, name: str, failed: Sequence[Server] = (), trouble: Exception | None = None
    ) -> Exchange[Target]:
        """The server for a model by its Ollama name, but for those that failed; there, `trouble` is why.

        Raises `trouble` when no other server has the model, and Ollama's errors for names.
        """
        served = self.names.served(name)
        if not name.strip():
            raise model_required(path)
        target = yield from self.fleet.find(served, failed)
        if target is not None:
            return target
        if trouble is not None:
            raise trouble
        self.fleet.raise_trouble(name)
        if canonical(name) is None:
            raise response_error("invalid model name", 400)
        self.memory.notice(
            f"not served {name}",
            "no server has %r, asked for as %r: %s",
            served,
            name,
            "; ".join(f"{server.url} serves {', '.join(server.names())}" for server in self.fleet.servers),
        )
        raise catalog.not_served(path, name, self.settings.vllm_urls)


def _refused(text: str) -> Exchange[None]:
    yield from ()  # a generator, so that a stream is refused where streams are: when it is read
    raise response_error(text, 501)
