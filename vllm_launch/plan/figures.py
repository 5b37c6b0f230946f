"""The data of a plan. All sizes are in bytes. It can be written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .options import Options
from .weights import Source


@dataclass(frozen=True, slots=True)
class KvCache:
    """The KV cache on each GPU of a server."""

    token_bytes: int
    """Bytes of one token in all layers of the GPU."""
    late_token_bytes: int
    """Bytes of one token beyond the window, where only the global layers grow; without a window, `token_bytes`."""
    request_bytes: int
    """The maximum bytes of one request of `max_model_len` tokens."""
    least_bytes: int
    """The minimum with which vLLM starts."""
    tokens: int
    """The "GPU KV cache size" in vLLM's log."""
    concurrency: float
    """The "Maximum concurrency for … tokens per request" in vLLM's log."""
    sequences: tuple[tuple[int, int], ...]
    """(tokens, number of concurrent requests of that length), shortest first."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The memory of a server on each of its GPUs."""

    name: str
    model: str
    model_source: str
    """The source of the model's figures."""
    weights_source: Source
    gpus: tuple[int, ...]
    options: Options
    budget: int
    """The server's share: the memory that vLLM may use."""
    weights: int
    activation: int
    cuda_graphs: int
    non_torch: int
    kv_available: int
    """The memory left for the KV cache; negative if the share is too small."""
    kv_cache: KvCache | None
    """None for a model without a KV cache, and if no memory is left."""
    needs: int
    """The smallest share (bytes) with which the server starts."""
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the server would start."""
        return not self.problems

    @property
    def fixed(self) -> int:
        """The bytes without the KV cache."""
        return self.weights + self.activation + self.cuda_graphs + self.non_torch


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """The memory of one GPU."""

    index: int
    name: str
    total: int
    """The memory that CUDA provides to programs."""
    shares: tuple[tuple[str, int], ...]
    """(server, bytes of its share)"""
    contexts: int
    """The CUDA contexts of the servers, outside their shares."""
    problems: tuple[str, ...]

    @property
    def free(self) -> int:
        """The memory that no server has; negative if too much is allocated."""
        return self.total - self.contexts - sum(share for _, share in self.shares)


@dataclass(frozen=True, slots=True)
class Change:
    """A new value for a field of a server's description."""

    server: str
    field: str
    value: str
    """The value in TOML and JSON notation."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A verified change with which the servers fit."""

    changes: tuple[Change, ...]
    """The changes, which apply together; empty if not a field but something else has to change."""
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory plan of servers on GPUs."""

    servers: tuple[ServerPlan, ...]
    gpus: tuple[GpuPlan, ...]
    suggestions: tuple[Suggestion, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the servers do not fit; empty if they fit."""
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
        """The plan as plain values, with `fits` and `problems`."""
        return {"fits": self.fits, "problems": list(self.problems), **asdict(self)}
