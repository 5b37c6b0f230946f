"""The backends of a call: its model on vLLM, then the fallbacks that VLLM_FAILOVER lists for it, in that order.

A fallback is another model that vLLM serves; a model of Ollama's cloud; `ollama:NAME`, a model of the Ollama server
that the client was made for; or `PROVIDER:NAME`, a model of an OpenAI-compatible service. A cloud model may have
fallbacks too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..mapping.model_names import canonical, is_cloud, same
from ..mapping.ollama_errors import model_not_found, response_error
from ..mapping.vllm_schema import ModelCard
from ..profiles.resolver import ModelResolver
from ..settings import NO_PROFILE, OLLAMA, Profile, Settings
from ..steps import Clock
from ..telemetry.notices import Notices
from .registry import ServerRegistry
from .server import Server, Target

VLLM = "vllm"

_MAX_SHOWN = 10  # model names of a server in a log line


@dataclass(frozen=True)
class Backend:
    """A way to answer a call."""

    name: str
    """The model, as the settings or the caller name it."""
    served: str
    """The model's name at the server."""
    profile: Profile
    provider: str = VLLM
    """`vllm`, `ollama`, or the provider's name."""
    server: Server | None = None
    """The only server of Ollama or a provider; None: the registry picks a vLLM server."""


@dataclass
class Backends:
    """The backends of one client's models."""

    settings: Settings
    registry: ServerRegistry
    resolver: ModelResolver
    notices: Notices
    clock: Clock
    _remote_servers: dict[str, Server] = field(default_factory=dict)
    """Ollama and the providers: each has a circuit breaker too."""

    def fallbacks(self, name: str) -> tuple[str, ...]:
        """The fallbacks that the settings list for a model."""
        chains = self.settings.vllm_failover.items()
        return next((chain for key, chain in chains if same(key, name)), ())

    def chain(self, name: str) -> tuple[Backend, ...]:
        """The backends of a model, in the order in which a call tries them."""
        return (self._first(name), *(self._fallback(name, other) for other in self.fallbacks(name)))

    def only_target(self, backend: Backend, tried: Sequence[Server]) -> Target | None:
        """The only server of Ollama or a provider; None: the call has tried it. Raises `CircuitOpen`."""
        server = backend.server
        if server is None or server in tried:
            return None
        now = self.clock.ticks()
        if not server.breaker.allows(now):
            raise server.circuit_open_error(now)
        return Target(server, ModelCard(backend.served))

    def not_served(self, path: str, backend: Backend) -> Exception:
        """The exception for a model that no vLLM server serves. Logs once which models they serve."""
        if canonical(backend.name) is None:
            return response_error("invalid model name", 400)
        self.notices.notice(
            "model not served",
            backend.name,
            "no server serves %(served)r, requested as %(model)r: %(servers)s",
            served=backend.served,
            model=backend.name,
            servers="; ".join(_served_models(server) for server in self.registry.servers),
        )
        return not_served(path, backend.name, self.registry.urls)

    def _first(self, name: str) -> Backend:
        if is_cloud(name):
            return self._remote(OLLAMA, name, name)
        return Backend(name, self.resolver.served(name), self.resolver.profile(name))

    def _fallback(self, name: str, other: str) -> Backend:
        provider, colon, model = other.partition(":")
        if is_cloud(other):
            return self._remote(OLLAMA, other, name)
        if colon and (provider == OLLAMA or provider in self.settings.providers):
            return self._remote(provider, model, name)
        profile = _merged(self.resolver.profile(name), self.resolver.profile(other))
        return Backend(other, self.resolver.served(other), profile)

    def _remote(self, provider: str, model: str, name: str) -> Backend:
        """A model of Ollama or of a provider."""
        server = self._remote_servers.get(provider)
        if server is None:
            url = OLLAMA if provider == OLLAMA else self.settings.providers[provider].base_url
            server = self._remote_servers.setdefault(provider, Server(url))
        profile = self.resolver.profile(name)
        if provider != OLLAMA:
            profile = _merged(profile, NO_PROFILE)
        return Backend(f"{provider}:{model}", model, profile, provider, server)


def not_served(path: str, name: str, urls: tuple[str, ...]) -> Exception:
    """The exception for a model that no server has: Ollama's 404; for a pull, how to serve the model."""
    if path != "/api/pull":
        return model_not_found(path, name)
    return response_error(
        f"pull model manifest: none of {', '.join(urls)} serves {name!r}. vLLM loads a model when it starts: start a "
        "server for it, add its URL to VLLM_URLS and its name to VLLM_MODEL_MAP",
        404,
    )


def _served_models(server: Server) -> str:
    names = server.model_names()
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{server.url} serves {', '.join(names[:_MAX_SHOWN])}{more}"


def _merged(requested: Profile, fallback: Profile) -> Profile:
    """The profile for a fallback: what the caller expects of the requested model, in the format of the fallback."""
    parameters: Mapping[str, object] = {**fallback.parameters, **requested.parameters}
    return fallback.model_copy(
        update={
            "system": requested.system or fallback.system,
            "messages": requested.messages or fallback.messages,
            "parameters": parameters,
        }
    )
