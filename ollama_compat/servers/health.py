"""The health of the servers: the result of `health()` and of `python -m ollama_compat health`.

With `BACKEND_MODE=vllm` the check sends `GET /health` and `GET /v1/models` (vLLM 0.32) to all servers concurrently,
with one timeout for all. The check includes servers whose circuit is open, and does not change any circuit.
With `BACKEND_MODE=ollama` the check sends `GET /api/version` to Ollama.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from ollama import ResponseError

from ..exceptions import MalformedReply
from ..mapping.errors import with_advice
from ..mapping.refusals import refusal
from ..mapping.vllm_schema import ModelList, decode
from ..settings import OLLAMA
from ..steps import MODELS_PATH, Reply, Request, SendAll, Steps
from .circuit_breaker import State

if TYPE_CHECKING:
    from .registry import ServerRegistry
    from .server import Server

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

_PATHS = ("/health", MODELS_PATH)
_WORST_FIRST: tuple[State, ...] = ("open", "half-open", "closed")


class ServerHealth(TypedDict):
    """The health of one server."""

    url: str
    status: Literal["healthy", "unhealthy"]
    circuit_breaker: State
    models: list[str]
    """The names of the models that the server serves. Empty if the server is unhealthy."""
    in_flight: int
    """Number of calls of this client that the server processes."""
    error: str | None


class Health(TypedDict):
    """The health of all servers.

    `status` is healthy if all servers are healthy and all circuit breakers are closed, unhealthy if all servers are
    unhealthy, and degraded otherwise.
    """

    backend_mode: Literal["ollama", "vllm"]
    status: Status
    circuit_breaker: State
    """The worst state of all circuit breakers."""
    servers: list[ServerHealth]


def health_steps(
    registry: ServerRegistry | None,
    timeout_s: float,
    redact: Callable[[str], str] = str,
    ollama_url: str = OLLAMA,
) -> Steps[None]:
    """Check all servers and yield one JSON object: the `Health`.

    Args:
        registry: The vLLM servers. None selects `BACKEND_MODE=ollama`: the check sends its request to Ollama.
        timeout_s: Timeout of the whole check (seconds).
        redact: Removes credentials from a text that a server returned.
        ollama_url: The URL of Ollama that the result shows.
    """
    if registry is None:
        yield from _ollama_steps(timeout_s, redact, ollama_url)
        return
    servers = registry.servers
    requests = [Request("GET", server.url, path, timeout=timeout_s) for server in servers for path in _PATHS]
    replies: list[Reply | Exception] = yield SendAll(tuple(requests), timeout_s)
    now = registry.clock.ticks()
    pairs = zip(servers, replies[::2], replies[1::2], strict=True)
    yield _summary("vllm", [_check_server(server, now, alive, models, redact) for server, alive, models in pairs])


def _ollama_steps(timeout_s: float, redact: Callable[[str], str], url: str) -> Steps[None]:
    request = Request("GET", "", "/api/version", timeout=timeout_s, credential=OLLAMA)
    reply: Reply | Exception
    (reply,) = yield SendAll((request,), timeout_s)
    yield _summary("ollama", [_server_health(url, "closed", [], 0, _ollama_error(url, reply), redact)])


def _ollama_error(url: str, reply: Reply | Exception) -> str | None:
    if isinstance(reply, MalformedReply):
        reply = with_advice(reply, "Please check OLLAMA_HOST.", url)
    if isinstance(reply, Reply) and reply.status in (401, 403):
        message = refusal(url, reply.status, reply.body).message or "unauthorized"
        return f"{message} ({url} rejected the API key: check OLLAMA_API_KEY and the client's headers)"
    return _error(url, reply)


def _check_server(
    server: Server, now: int, alive: Reply | Exception, models: Reply | Exception, redact: Callable[[str], str]
) -> ServerHealth:
    error = _error(server.url, alive) or _error(server.url, models)
    names: list[str] = []
    if error is None and isinstance(models, Reply):
        try:
            names = [card.id for card in decode(models.body, ModelList, server.url).data]
        except ResponseError as problem:
            error = problem.error
    return _server_health(server.url, server.breaker.state(now), names, server.in_flight, error, redact)


def _server_health(
    url: str, breaker: State, models: list[str], in_flight: int, error: str | None, redact: Callable[[str], str]
) -> ServerHealth:
    return {
        "url": url,
        "status": "healthy" if error is None else "unhealthy",
        "circuit_breaker": breaker,
        "models": [redact(name) for name in models],
        "in_flight": in_flight,
        "error": None if error is None else redact(error),
    }


def _summary(mode: Literal["ollama", "vllm"], servers: list[ServerHealth]) -> dict[str, object]:
    healthy = [server["status"] == "healthy" for server in servers]
    breakers = [server["circuit_breaker"] for server in servers]
    breaker = next((state for state in _WORST_FIRST if state in breakers), "closed")
    status: Status = "degraded" if any(healthy) else "unhealthy"
    if all(healthy) and breaker == "closed":
        status = "healthy"
    return {"backend_mode": mode, "status": status, "circuit_breaker": breaker, "servers": servers}


def _error(url: str, reply: Reply | Exception) -> str | None:
    """The error that a reply or exception means. None: the request succeeded."""
    if isinstance(reply, ResponseError):
        return reply.error
    if isinstance(reply, Exception):
        return str(reply) or type(reply).__name__
    return None if reply.ok else refusal(url, reply.status, reply.body).error().error
