"""How the servers are: what `health()` tells."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ollama_compat import Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.mapping.errors import unreachable
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.steps import Reply, SendAll
from ollama_compat.telemetry.health import examined
from tests.play import SECOND, Play, StillClock, play, reply

A, B = "http://a:8001", "http://b:8002"
OK = Reply(200, b"")
SMOL, OTHER = reply({"data": [{"id": "smol"}]}), reply({"data": [{"id": "other"}, {"id": "third"}]})
REFUSES = unreachable(A, None, "refused")
WELL = {"status": "healthy", "circuit_breaker": "closed", "in_flight": 0, "error": None}


def translation() -> Dispatcher:
    return Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B)), StillClock())


def health(made: Dispatcher | None, *outcomes: Any) -> Any:
    """What is told when these are the outcomes: `/health` and `/v1/models` of A, then of B."""
    (part,) = play(examined(made, 2.0), *outcomes).parts
    return part


def opened(made: Dispatcher, seconds_ago: float = 0) -> None:
    """Have A's circuit open."""
    for _ in range(FAILURES):
        made.fleet.servers[0].failed(made.clock.ticks() - int(seconds_ago * SECOND), REFUSES)


def test_every_server_is_asked_side_by_side_within_one_time() -> None:
    exchange = examined(translation(), 1.5)
    step = next(exchange)
    assert isinstance(step, SendAll)
    assert step.timeout == 1.5
    asked = [(request.method, request.url, request.timeout, request.credential) for request in step.requests]
    assert asked == [("GET", f"{url}{path}", 1.5, "vllm") for url in (A, B) for path in ("/health", "/v1/models")]


def test_when_all_are_well() -> None:
    assert health(translation(), OK, SMOL, OK, OTHER) == {
        "backend_mode": "vllm",
        "status": "healthy",
        "circuit_breaker": "closed",
        "servers": [{"url": A, "models": ["smol"], **WELL}, {"url": B, "models": ["other", "third"], **WELL}],
    }


def test_it_is_plain_json() -> None:
    told = health(translation(), OK, SMOL, REFUSES, REFUSES)
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("alive", "models", "error"),
    [
        (REFUSES, REFUSES, "refused"),
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
def test_a_server_that_is_not_well_says_why(alive: Any, models: Any, error: str) -> None:
    told = health(translation(), alive, models, OK, OTHER)
    ill, well = told["servers"]
    assert (ill["status"], ill["models"]) == ("unhealthy", [])
    assert error in ill["error"]
    assert well == {"url": B, "models": ["other", "third"], **WELL}
    assert told["status"] == "degraded"


def test_when_none_is_well() -> None:
    told = health(translation(), REFUSES, REFUSES, Reply(500, b"boom"), REFUSES)
    assert told["status"] == "unhealthy"
    assert [server["status"] for server in told["servers"]] == ["unhealthy"] * 2


@pytest.mark.parametrize(("seconds_ago", "state"), [(0, "open"), (OPEN_S, "half-open")])
def test_a_server_that_is_left_alone_is_well_but_all_are_degraded(seconds_ago: float, state: str) -> None:
    made = translation()
    opened(made, seconds_ago)
    told = health(made, OK, SMOL, OK, OTHER)
    assert [server["circuit_breaker"] for server in told["servers"]] == [state, "closed"]
    assert [server["status"] for server in told["servers"]] == ["healthy"] * 2
    assert (told["circuit_breaker"], told["status"]) == (state, "degraded")


def test_the_circuit_breaker_of_all_is_the_worst_of_them() -> None:
    made = translation()
    opened(made, OPEN_S)
    for _ in range(FAILURES):
        made.fleet.servers[1].failed(made.clock.ticks(), REFUSES)
    assert health(made, OK, SMOL, OK, OTHER)["circuit_breaker"] == "open"


def test_to_ask_changes_nothing() -> None:
    made = translation()
    opened(made, OPEN_S)
    for outcomes in ([OK, SMOL, OK, OTHER], [REFUSES] * 4):
        health(made, *outcomes)
    first, second = made.fleet.servers
    assert first.breaker.admit(made.clock.ticks()), "the trial is a call's to make"
    assert second.breaker.failures == 0
    assert (first.cards, second.cards) == (None, None)


def test_calls_in_flight_are_told() -> None:
    made = translation()
    with made.fleet.taking(made.fleet.servers[1]):
        assert [server["in_flight"] for server in health(made, OK, SMOL, OK, OTHER)["servers"]] == [0, 1]


# BACKEND_MODE=ollama


def test_in_mode_ollama_it_is_ollama_that_is_asked() -> None:
    played = Play().run(examined(None, 2.0), reply({"version": "0.33.0"}))
    (request,) = played.requests
    assert (request.method, request.url, request.credential, request.timeout) == ("GET", "/api/version", "ollama", 2.0)
    assert played.parts == [
        {
            "backend_mode": "ollama",
            "status": "healthy",
            "circuit_breaker": "closed",
            "servers": [{"url": "ollama", "models": [], **WELL}],
        }
    ]


@pytest.mark.parametrize("outcome", [REFUSES, TimeoutError("no answer within 2 s"), Reply(500, b"boom")])
def test_an_ollama_that_does_not_answer_is_unhealthy(outcome: Any) -> None:
    told = health(None, outcome)
    assert told["status"] == told["servers"][0]["status"] == "unhealthy"
    assert told["servers"][0]["error"]
