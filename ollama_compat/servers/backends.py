"""Who may answer a call: the model on vLLM, then what VLLM_FAILOVER names in its place, in that order.

What stands in is written as another model's name, which vLLM serves; a name of Ollama's cloud; `ollama:NAME`, a model
of the Ollama server that the client was made for; or `PROVIDER:NAME`, a model of an OpenAI-compatible service. It works
the other way as well: a cloud model that has a chain is answered by it when the cloud can't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..call import Call, Memory
from ..mapping.errors import model_required, response_error
from ..mapping.model_names import canonical, is_cloud, same
from ..mapping.vllm_schema import ModelCard
from ..operations.catalog import not_served
from ..operations.passthrough import passthrough
from ..profiles.resolver import ModelResolver
from ..providers.request import adapt
from ..settings import NO_PROFILE, OLLAMA, Profile, Settings
from ..steps import Clock, Steps
from .registry import Server, ServerRegistry, Target

VLLM = "vllm"

_NAMED = 10
"""How many of a server's models a log line names."""

Operation = Callable[[Call], Steps[None]]
Finder = Callable[[Sequence[Server], int, float | None], Steps[Target | None]]


@dataclass(frozen=True)
class Backend:
    """One way to an answer."""

    name: str
    """The model, as the settings or the caller wrote it."""
    find: Finder
    """The server that takes the call, but for those that have just failed it; None when there is none left.

    The numbers are when the call began, in ticks: what a server has said since then it is not asked again; and what is
    left of the caller's timeout (seconds).
    """
    operation: Callable[[Operation], Operation]
    """How an operation is done there."""
    profile: Profile
    provider: str = VLLM
    """`vllm`, `ollama`, or the provider's name."""


@dataclass
class Backends:
    """The routes of one client's models."""

    settings: Settings
    fleet: ServerRegistry
    names: ModelResolver
    memory: Memory
    clock: Clock
    _elsewhere: dict[str, Server] = field(default_factory=dict)
    """Ollama and the providers: each has a circuit breaker too."""

    def chain(self, name: str) -> tuple[str, ...]:
        """What stands in for a model."""
        chains = self.settings.vllm_failover.items()
        return next((chain for key, chain in chains if same(key, name)), ())

    def of(self, path: str, name: str) -> list[Backend]:
        """The routes of a model for a call of `path`, the first one first."""
        if is_cloud(name):
            first = self._remote(OLLAMA, name, name)
        else:
            first = Backend(name, self._on_vllm(path, name), _as_it_is, self.names.profile(name))
        return [first, *(self._stand_in(path, name, other) for other in self.chain(name))]

    def _stand_in(self, path: str, name: str, other: str) -> Backend:
        provider, colon, model = other.partition(":")
        if is_cloud(other):
            return self._remote(OLLAMA, other, name)
        if colon and (provider == OLLAMA or provider in self.settings.providers):
            return self._remote(provider, model, name)
        profile = _standing_in(self.names.profile(name), self.names.profile(other))
        return Backend(other, self._on_vllm(path, other), _as_it_is, profile)

    def _on_vllm(self, path: str, name: str) -> Finder:
        def find(avoid: Sequence[Server], since: int, left_s: float | None) -> Steps[Target | None]:
            return (yield from self.find(path, name, avoid, since, left_s))

        return find

    def find(
        self,
        path: str,
        name: str,
        avoid: Sequence[Server] = (),
        since: int | None = None,
        left_s: float | None = None,
    ) -> Steps[Target | None]:
        """The vLLM server for a model by its Ollama name, but for those that failed; None when no other has it.

        Raises what the fleet raises, and Ollama's errors for names.
        """
        served = self.names.served(name)
        if not name.strip():
            raise model_required(path)
        target = yield from self.fleet.find(served, avoid, since, left_s)
        if target is not None or avoid:
            return target
        if canonical(name) is None:
            raise response_error("invalid model name", 400)
        self.memory.notice(
            "model not served",
            name,
            "no server has %(served)r, asked for as %(model)r: %(instead)s",
            served=served,
            model=name,
            instead="; ".join(_serves(server) for server in self.fleet.servers),
        )
        raise not_served(path, name, self.settings.vllm_urls)

    def _remote(self, provider: str, model: str, name: str) -> Backend:
        """A model of Ollama's, or of a provider's."""
        server = self._elsewhere.get(provider)
        if server is None:
            url = OLLAMA if provider == OLLAMA else self.settings.providers[provider].base_url
            server = self._elsewhere.setdefault(provider, Server(url))

        def find(avoid: Sequence[Server], *_: object) -> Steps[Target | None]:
            yield from ()
            if server in avoid:
                return None
            if not server.breaker.closed and not server.breaker.allows(self.clock.ticks()):
                raise server.left_alone(self.clock.ticks())
            return Target(server, ModelCard(model))

        if provider == OLLAMA:
            return Backend(f"{OLLAMA}:{model}", find, lambda _: passthrough, self.names.profile(name), OLLAMA)

        def adapted(operation: Operation) -> Operation:
            settings = self.settings.providers[provider]
            return lambda call: adapt(operation(call), settings, provider, call.memory.notice)

        return Backend(
            f"{provider}:{model}", find, adapted, _standing_in(self.names.profile(name), NO_PROFILE), provider
        )


def _serves(server: Server) -> str:
    names = server.names()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{server.url} serves {', '.join(names[:_NAMED])}{more}"


def _as_it_is(operation: Operation) -> Operation:
    return operation


def _standing_in(asked: Profile, other: Profile) -> Profile:
    """What a caller expects of the model that was asked for, and how the one that stands in is asked for it."""
    parameters: Mapping[str, object] = {**other.parameters, **asked.parameters}
    return other.model_copy(
        update={
            "system": asked.system or other.system,
            "messages": asked.messages or other.messages,
            "parameters": parameters,
        }
    )
