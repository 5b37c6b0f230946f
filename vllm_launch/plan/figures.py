"""What a plan says. Bytes throughout; all of it can be written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .options import Options
from .weights import Source


@dataclass(frozen=True, slots=True)
class KvCache:
    """The KV cache on each GPU of a server."""

    token_bytes: int
    """Of one token in all layers of the GPU."""
    late_token_bytes: int
    """Of one token beyond the window, where only the global layers still grow; the same without a window."""
    request_bytes: int
    """That one request of `max_model_len` tokens may hold."""
    least_bytes: int
    """Without which vLLM does not start."""
    tokens: int
    """What vLLM logs as "GPU KV cache size"."""
    concurrency: float
    """What vLLM logs as "Maximum concurrency for … tokens per request"."""
    sequences: tuple[tuple[int, int], ...]
    """(tokens, how many requests of so many tokens are held at once), shortest first."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """What a server takes on each of its GPUs."""

    name: str
    model: str
    model_source: str
    """Where the model's figures are from, in words."""
    weights_source: Source
    gpus: tuple[int, ...]
    options: Options
    budget: int
    """Its share: what vLLM may fill."""
    weights: int
    activation: int
    cuda_graphs: int
    non_torch: int
    kv_available: int
    """What is left for the KV cache; below 0 if nothing is."""
    kv_cache: KvCache | None
    """None for models without one, and where nothing is left for it."""
    needs: int
    """With how many bytes as its share it would start."""
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it would start."""
        return not self.problems

    @property
    def fixed(self) -> int:
        """All but the KV cache."""
        return self.weights + self.activation + self.cuda_graphs + self.non_torch


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """Who shares a GPU."""

    index: int
    name: str
    total: int
    """What CUDA gives to programs."""
    shares: tuple[tuple[str, int], ...]
    """(server, bytes of its share)"""
    contexts: int
    """The servers' CUDA contexts, outside of their shares."""
    problems: tuple[str, ...]

    @property
    def free(self) -> int:
        """What nobody has; below 0 if more is given away than there is."""
        return self.total - self.contexts - sum(share for _, share in self.shares)


@dataclass(frozen=True, slots=True)
class Change:
    """A field of a server's description, and another value for it."""

    server: str
    field: str
    value: str
    """As TOML and JSON write it."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something with which a server that does not fit would fit; it was tried on the plan."""

    changes: tuple[Change, ...]
    """All of them together; empty where something else than a field has to change."""
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory of some servers on some GPUs."""

    servers: tuple[ServerPlan, ...]
    gpus: tuple[GpuPlan, ...]
    suggestions: tuple[Suggestion, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it does not fit; empty if it does."""
        servers = (text for server in self.servers for text in server.problems)
        return (*servers, *(text for gpu in self.gpus for text in gpu.problems))

    @property
    def fits(self) -> bool:
        """Whether every server would start."""
        return not self.problems

    def server(self, name: str) -> ServerPlan:
        """The plan of the server of this name. Raises `KeyError`."""
        for server in self.servers:
            if server.name == name:
                return server
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON has it, with `fits` and `problems`."""
        return {"fits": self.fits, "problems": list(self.problems), **asdict(self)}
