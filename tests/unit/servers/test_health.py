"""The health check: the requests that it sends, and the result for each combination of replies."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ollama_compat.mapping.errors import unreachable
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.servers.health import health_steps
from ollama_compat.servers.registry import ServerRegistry
from ollama_compat.steps import Reply, SendAll
from tests.play import SECOND, Play, StillClock, play, reply

A, B = "http://a:8001", "http://b:8002"
OK = Reply(200, b"")
SMOL, OTHER = reply({"data": [{"id": "smol"}]}), reply({"data": [{"id": "other"}, {"id": "third"}]})
UNREACHABLE = unreachable(A, None, "refused")
HEALTHY = {"status": "healthy", "circuit_breaker": "closed", "in_flight": 0, "error": None}


@pytest.fixture
def registry() -> ServerRegistry:
    return ServerRegistry((A, B), StillClock())


def health(registry: ServerRegistry | None, *outcomes: Any) -> Any:
    """The health for these outcomes: `/health` and `/v1/models` of A, then of B."""
    (part,) = play(health_steps(registry, 2.0), *outcomes).parts
    return part


def open_circuit(registry: ServerRegistry, server: int = 0, seconds_ago: float = 0) -> None:
    for _ in range(FAILURES):
        registry.servers[server].record_failure(registry.clock.ticks() - int(seconds_ago * SECOND), UNREACHABLE)


def test_health_check_sends_all_requests_concurrently_with_one_timeout(registry: ServerRegistry) -> None:
    step = next(health_steps(registry, 1.5))
    assert isinstance(step, SendAll)
    assert step.timeout == 1.5
    sent = [(request.method, request.url, request.timeout, request.credential) for request in step.requests]
    assert sent == [("GET", f"{url}{path}", 1.5, "vllm") for url in (A, B) for path in ("/health", "/v1/models")]


def test_health_lists_models_of_each_server_when_all_are_healthy(registry: ServerRegistry) -> None:
    assert health(registry, OK, SMOL, OK, OTHER) == {
        "backend_mode": "vllm",
        "status": "healthy",
        "circuit_breaker": "closed",
        "servers": [{"url": A, "models": ["smol"], **HEALTHY}, {"url": B, "models": ["other", "third"], **HEALTHY}],
    }


def test_health_is_plain_json(registry: ServerRegistry) -> None:
    result = health(registry, OK, SMOL, UNREACHABLE, UNREACHABLE)
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("alive", "models", "error"),
    [
        (UNREACHABLE, UNREACHABLE, "refused"),
        (TimeoutError("no answer within 2 s"), SMOL, "no answer within 2 s"),
        (OK, httpx.ReadTimeout(""), "ReadTimeout"),
        (Reply(503, b""), SMOL, "status 503 from http://a:8001"),
        (OK, reply({"error": "Unauthorized"}, 401), "check VLLM_API_KEY"),
        (OK, reply({"detail": "Not Found"}, 404), "Not Found"),
        (OK, Reply(200, b"<html>"), "malformed reply"),
        (OK, reply({"models": []}), "malformed reply"),
        (OK, Reply(200, b""), "it is empty"),
    ],
)
def test_health_contains_error_of_unhealthy_server(
    registry: ServerRegistry, alive: Any, models: Any, error: str
) -> None:
    result = health(registry, alive, models, OK, OTHER)
    first, second = result["servers"]
    assert (first["status"], first["models"]) == ("unhealthy", [])
    assert error in first["error"]
    assert second == {"url": B, "models": ["other", "third"], **HEALTHY}
    assert result["status"] == "degraded"


def test_health_is_unhealthy_when_all_servers_fail(registry: ServerRegistry) -> None:
    result = health(registry, UNREACHABLE, UNREACHABLE, Reply(500, b"boom"), UNREACHABLE)
    assert result["status"] == "unhealthy"
    assert [server["status"] for server in result["servers"]] == ["unhealthy"] * 2


@pytest.mark.parametrize(("seconds_ago", "state"), [(0, "open"), (OPEN_S, "half-open")])
def test_health_is_degraded_when_circuit_of_healthy_server_is_not_closed(
    registry: ServerRegistry, seconds_ago: float, state: str
) -> None:
    open_circuit(registry, seconds_ago=seconds_ago)
    result = health(registry, OK, SMOL, OK, OTHER)
    assert [server["circuit_breaker"] for server in result["servers"]] == [state, "closed"]
    assert [server["status"] for server in result["servers"]] == ["healthy"] * 2
    assert (result["circuit_breaker"], result["status"]) == (state, "degraded")


def test_health_reports_worst_circuit_breaker_state(registry: ServerRegistry) -> None:
    open_circuit(registry, server=0, seconds_ago=OPEN_S)
    open_circuit(registry, server=1)
    assert health(registry, OK, SMOL, OK, OTHER)["circuit_breaker"] == "open"


def test_health_check_does_not_change_servers(registry: ServerRegistry) -> None:
    open_circuit(registry, seconds_ago=OPEN_S)
    for outcomes in ([OK, SMOL, OK, OTHER], [UNREACHABLE] * 4):
        health(registry, *outcomes)
    first, second = registry.servers
    assert first.breaker.admit(registry.clock.ticks()), "the half-open probe is left to a call"
    assert second.breaker.failures == 0
    assert (first.models, second.models) == (None, None)


def test_health_contains_calls_in_flight(registry: ServerRegistry) -> None:
    registry.begin_request(registry.servers[1])
    assert [server["in_flight"] for server in health(registry, OK, SMOL, OK, OTHER)["servers"]] == [0, 1]


# BACKEND_MODE=ollama


def test_health_check_requests_version_of_ollama_without_registry() -> None:
    played = Play().run(health_steps(None, 2.0), reply({"version": "0.33.0"}))
    (request,) = played.requests
    assert (request.method, request.url, request.credential, request.timeout) == ("GET", "/api/version", "ollama", 2.0)
    assert played.parts == [
        {
            "backend_mode": "ollama",
            "status": "healthy",
            "circuit_breaker": "closed",
            "servers": [{"url": "ollama", "models": [], **HEALTHY}],
        }
    ]


@pytest.mark.parametrize("outcome", [UNREACHABLE, TimeoutError("no answer within 2 s"), Reply(500, b"boom")])
def test_ollama_is_unhealthy_when_request_fails(outcome: Any) -> None:
    result = health(None, outcome)
    assert result["status"] == result["servers"][0]["status"] == "unhealthy"
    assert result["servers"][0]["error"]
