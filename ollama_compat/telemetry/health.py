"""How the servers are: what `health()` and `python -m ollama_compat health` tell.

Every server is asked side by side for `/health` and `/v1/models` (vLLM 0.32), all within one time. Circuit breakers are
told of, but neither asked nor changed. With `BACKEND_MODE=ollama` it is Ollama that is asked, for `/api/version`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from ollama import ResponseError

from ..exceptions import MalformedReply
from ..mapping.errors import elsewhere, refusal
from ..mapping.vllm_schema import ModelList, decode
from ..servers.circuit_breaker import State
from ..settings import OLLAMA
from ..steps import MODELS_PATH, Reply, Request, SendAll, Steps
from ..transport.credentials import Credentials

if TYPE_CHECKING:
    from ..dispatch import Dispatcher
    from ..servers.server import Server

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]


class ServerHealth(TypedDict):
    """One server."""

    url: str
    status: Literal["healthy", "unhealthy"]
    circuit_breaker: State
    models: list[str]
    """What it serves."""
    in_flight: int
    """Calls of this client that it works on."""
    error: str | None


class Health(TypedDict):
    """All of them. Degraded: some are unhealthy, or left alone by their circuit breaker."""

    backend_mode: Literal["ollama", "vllm"]
    status: Status
    circuit_breaker: State
    """The worst of the servers'."""
    servers: list[ServerHealth]


def examined(
    translation: Dispatcher | None, timeout_s: float, keys: Credentials | None = None, ollama: str = OLLAMA
) -> Steps[None]:
    """One part: the `Health`. None of the keys is in it; `ollama` is the URL of Ollama, which is asked in its mode."""
    keys = keys or Credentials({})
    if translation is None:
        yield from _ollama(timeout_s, keys, ollama)
        return
    servers = translation.registry.servers
    requests = [Request("GET", server.url, path, timeout=timeout_s) for server in servers for path in _PATHS]
    replies: list[Reply | Exception] = yield SendAll(tuple(requests), timeout_s)
    now = translation.context.clock.ticks()
    pairs = zip(servers, replies[::2], replies[1::2], strict=True)
    yield _summed("vllm", [_server(server, now, alive, models, keys) for server, alive, models in pairs])


_PATHS = ("/health", MODELS_PATH)


def _ollama(timeout_s: float, keys: Credentials, url: str) -> Steps[None]:
    request = Request("GET", "", "/api/version", timeout=timeout_s, credential=OLLAMA)
    reply: Reply | Exception
    (reply,) = yield SendAll((request,), timeout_s)
    yield _summed("ollama", [_told(url, "closed", [], 0, _ollamas_error(url, reply), keys)])


def _ollamas_error(url: str, reply: Reply | Exception) -> str | None:
    if isinstance(reply, MalformedReply):
        reply = elsewhere(reply, "Please check OLLAMA_HOST.", url)
    if isinstance(reply, Reply) and reply.status in (401, 403):
        said = refusal(url, reply.status, reply.body).message or "unauthorized"
        return f"{said} ({url} wants another key: check OLLAMA_API_KEY, or the client's headers)"
    return _error(url, reply)


def _server(
    server: Server, now: int, alive: Reply | Exception, models: Reply | Exception, keys: Credentials
) -> ServerHealth:
    error = _error(server.url, alive) or _error(server.url, models)
    names: list[str] = []
    if error is None and isinstance(models, Reply):
        try:
            names = [card.id for card in decode(models.body, ModelList, server.url).data]
        except ResponseError as problem:
            error = problem.error
    return _told(server.url, server.breaker.state(now), names, server.in_flight, error, keys)


def _told(
    url: str, breaker: State, models: list[str], in_flight: int, error: str | None, keys: Credentials
) -> ServerHealth:
    return {
        "url": url,
        "status": "healthy" if error is None else "unhealthy",
        "circuit_breaker": breaker,
        "models": [keys.redact_text(name) for name in models],
        "in_flight": in_flight,
        "error": None if error is None else keys.redact_text(error),
    }


def _summed(mode: Literal["ollama", "vllm"], servers: list[ServerHealth]) -> dict[str, object]:
    well = [server for server in servers if server["status"] == "healthy" and server["circuit_breaker"] == "closed"]
    alive = any(server["status"] == "healthy" for server in servers)
    breakers = [server["circuit_breaker"] for server in servers]
    status: Status = "healthy" if len(well) == len(servers) else "degraded" if alive else "unhealthy"
    return {
        "backend_mode": mode,
        "status": status,
        "circuit_breaker": next((state for state in _WORST if state in breakers), "closed"),
        "servers": servers,
    }


_WORST: tuple[State, ...] = ("open", "half-open", "closed")


def _error(url: str, reply: Reply | Exception) -> str | None:
    if isinstance(reply, ResponseError):
        return reply.error
    if isinstance(reply, Exception):
        return str(reply) or type(reply).__name__
    return None if reply.ok else refusal(url, reply.status, reply.body).error().error
