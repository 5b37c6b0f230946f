"""One server: the models it serves, the calls in flight, its circuit breaker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..exceptions import CircuitOpen, ServerUnreachable
from ..mapping.errors import circuit_open
from ..mapping.model_names import canonical
from ..mapping.vllm_schema import ModelCard
from ..telemetry.log import log_decision
from .circuit_breaker import CircuitBreaker
from .failures import is_timeout

_LONGEST_CAUSE = 300  # characters of a failure that are kept


@dataclass(eq=False)
class Server:
    """A server that answers calls: vLLM, Ollama or a provider."""

    url: str
    models: tuple[ModelCard, ...] | None = None
    """The models of its last list; None while the list is not known."""
    listed_at: int | None = None
    """When it last received a request for its list (ticks), whatever came of that."""
    in_flight: int = 0
    last_error: Exception | None = None
    """Why it did not return its list the last time."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def model(self, name: str) -> ModelCard | None:
        """The served model with this name: the exact name first, then as Ollama compares names."""
        return find_model(self.models or (), name)

    def model_names(self) -> list[str]:
        """The names of the served models."""
        return [model.id for model in self.models or ()]

    def had_less_time(self, seconds: float) -> bool:
        """Whether its last list timed out for a call that had much less than `seconds` to wait."""
        waited = self.last_error.waited_s if isinstance(self.last_error, ServerUnreachable) else None
        return waited is not None and waited < seconds / 2

    def record_success(self, now: int) -> None:
        """Note that it answered a call."""
        if self.breaker.record_success(now):
            log_decision("circuit closed", "the probe succeeded", server=self.url)

    def record_failure(self, now: int, error: Exception) -> None:
        """Note that it failed a call by its own fault."""
        cause = str(error)[:_LONGEST_CAUSE]
        breaker = self.breaker
        opened = breaker.record_timeout(now, cause) if is_timeout(error) else breaker.record_failure(now, cause)
        if opened:
            log_decision("circuit opened", cause, server=self.url, failures=breaker.failures)

    def circuit_open_error(self, now: int) -> CircuitOpen:
        """The exception for a call that the open circuit refuses."""
        breaker = self.breaker
        return circuit_open(self.url, breaker.failures, breaker.last_failure, breaker.seconds_left(now))


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the model on it that answers a call."""

    server: Server
    card: ModelCard

    @property
    def url(self) -> str:
        """The server's base URL, without `/v1`."""
        return self.server.url


def find_model(models: tuple[ModelCard, ...], name: str) -> ModelCard | None:
    """The model with this name: the exact name first, then as Ollama compares names."""
    index = model_index(models)
    full_name = canonical(name)
    return index.get(name) or (None if full_name is None else index.get(f"{_CANONICAL}{full_name}"))


_CANONICAL = "\0"  # marks a key that is a canonical name: no served name has it


@lru_cache(maxsize=256)
def model_index(models: tuple[ModelCard, ...]) -> Mapping[str, ModelCard]:
    """The models by their exact and their canonical names; the first model with a name wins."""
    index: dict[str, ModelCard] = {}
    for model in models:
        index.setdefault(model.id, model)
        full_name = canonical(model.id)
        if full_name is not None:
            index.setdefault(f"{_CANONICAL}{full_name}", model)
    return index
