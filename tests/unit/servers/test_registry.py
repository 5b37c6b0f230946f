"""The server registry: discovery of the models of each server, and the choice of the server for a call."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError, ServerUnreachable
from ollama_compat.exceptions import CircuitOpen, ConnectionsExhausted, ServerNotReady, ServerTimeout
from ollama_compat.mapping.errors import connections_exhausted, incomplete_reply, server_timeout, unreachable
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.servers.registry import (
    DISCOVERY_TIMEOUT_S,
    GRACE_S,
    REDISCOVERY_S,
    WAITER_MARGIN_S,
    Server,
    ServerRegistry,
)
from ollama_compat.steps import AcquireSlot, Reply, SendAll
from tests.play import SECOND, FakeClock, Play, StillClock, play, reply

A, B = "http://a:8001", "http://b:8002"
UNREACHABLE = unreachable(A, None, "refused")


def serves(*names: str) -> Any:
    return reply({"data": [{"id": name} for name in names]})


def registry_of(*urls: str) -> ServerRegistry:
    return ServerRegistry(urls or (A, B), FakeClock())


def url(played: Play) -> str | None:
    """The URL of the server that `find` returned."""
    return None if played.result is None else str(played.result.url)


# Model names of a server


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("smol", "smol"),
        ("SMOL:latest", "smol"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen/qwen3-8b", "Qwen/Qwen3-8B"),
        ("smol:135m", None),
        ("", None),
    ],
)
def test_server_compares_model_names_like_ollama(name: str, found: str | None) -> None:
    card = Server(A, (ModelCard("smol"), ModelCard("Qwen/Qwen3-8B"))).model(name)
    assert (card and card.id) == found


def test_exact_name_has_precedence() -> None:
    server = Server(A, (ModelCard("SMOL"), ModelCard("smol")))
    assert (server.model("SMOL"), server.model("smol")) == (ModelCard("SMOL"), ModelCard("smol"))


def test_server_has_no_names_before_discovery() -> None:
    assert (Server(A).model("smol"), Server(A).model_names()) == (None, [])


# Discovery


def test_discovery_requests_models_of_every_server() -> None:
    played = play(registry_of().find("smol"), serves("smol"), serves("other"))
    assert [(request.method, request.url) for request in played.requests] == [
        ("GET", f"{A}/v1/models"),
        ("GET", f"{B}/v1/models"),
    ]
    assert [request.timeout for request in played.requests] == [DISCOVERY_TIMEOUT_S] * 2


def test_discovered_models_are_cached() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("other"))
    assert [url(play(registry.find(name))) for name in ("smol", "other")] == [A, B]


def test_unknown_name_starts_discovery_again() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("other"))
    assert url(play(registry.find("new"), serves("smol"), serves("new"))) == B


def test_find_returns_none_when_no_server_serves_name() -> None:
    assert url(play(registry_of().find("nope"), serves("smol"), serves("other"))) is None


def test_forgotten_server_is_discovered_again() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("smol"))
    registry.forget(registry.servers[0])
    assert [request.base for request in play(registry.find("smol"), serves("smol")).requests] == [A]


def test_unreachable_server_is_discovered_again_after_pause() -> None:
    registry = registry_of()
    assert url(play(registry.find("smol"), UNREACHABLE, serves("smol"))) == B
    assert play(registry.find("smol")).requests == []
    registry.clock.now += int(REDISCOVERY_S * SECOND)  # type: ignore[attr-defined]
    assert url(play(registry.find("smol"), serves("smol"))) == A


@pytest.mark.parametrize(
    "failure",
    [
        UNREACHABLE,
        server_timeout(A, 5.0),
        incomplete_reply(A, "reset"),
        reply({"error": "no"}, 401),
        reply([]),
        reply({}, 503),
    ],
    ids=["refused", "late", "cut", "401", "malformed", "503"],
)
def test_find_returns_other_server_when_discovery_of_one_fails(failure: Any) -> None:
    assert url(play(registry_of().find("smol"), failure, serves("smol"))) == B


def test_server_without_model_is_discovered_once_per_find() -> None:
    played = play(registry_of().find("nope"), serves("smol"), serves("other"))
    assert [request.base for request in played.requests] == [A, B]


def test_no_discovery_of_other_servers_when_server_of_model_was_tried() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("other"))
    assert play(registry.find("smol", registry.servers[:1])).requests == []


def test_other_servers_are_discovered_when_tried_server_was_forgotten() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("other"))
    registry.forget(registry.servers[0])
    played = play(registry.find("smol", registry.servers[:1]), serves("smol"))
    assert ([request.base for request in played.requests], url(played)) == ([B], B)


def test_server_is_discovered_once_since_start_of_call() -> None:
    registry = registry_of()
    since = registry.clock.ticks()
    play(registry.find("smol", (), since), serves("smol"), serves("other"))
    assert play(registry.find("nope", (), since)).requests == []
    assert len(play(registry.find("nope"), serves("smol"), serves("other")).requests) == 2


# Concurrent discovery


def advance(steps: Any, outcome: Any = None) -> Any:
    """The next step, or the result when the steps end."""
    try:
        return steps.send(outcome)
    except StopIteration as stop:
        return stop.value


def test_concurrent_calls_share_one_discovery() -> None:
    registry = registry_of(A)
    first, *others = [registry.find("smol") for _ in range(3)]
    assert isinstance(advance(first), SendAll)
    waits = [advance(other) for other in others]
    assert [wait.timeout for wait in waits] == [DISCOVERY_TIMEOUT_S + WAITER_MARGIN_S] * 2
    assert advance(first, [serves("smol")]).url == A
    assert [wait.queue.green_acquire(blocking=False) for wait in waits] == [True, True]
    assert [advance(other, True).url for other in others] == [A, A]


def test_waiting_call_does_not_repeat_discovery_of_unreachable_server() -> None:
    registry = registry_of()
    first, second = registry.find("smol"), registry.find("smol")
    advance(first)
    wait = advance(second)
    assert isinstance(wait, AcquireSlot)
    assert advance(first, [UNREACHABLE, serves("smol")]).url == B
    assert wait.queue.green_acquire(blocking=False)
    assert advance(second, True).url == B


def test_waiting_call_takes_over_discovery_when_leading_call_is_cancelled() -> None:
    registry = registry_of(A)
    first, second = registry.find("smol"), registry.find("smol")
    advance(first)
    wait = advance(second)
    first.close()
    assert wait.queue.green_acquire(blocking=False)
    assert [request.path for request in advance(second, True).requests] == ["/v1/models"]
    assert advance(second, [serves("smol")]).url == A


def test_cancelled_discovery_is_repeated() -> None:
    registry = registry_of()
    cancelled = registry.find("smol")
    advance(cancelled)
    cancelled.close()
    assert [request.base for request in play(registry.find("smol"), serves("smol"), serves("smol")).requests] == [A, B]


def test_find_does_not_wait_for_discovery_when_other_server_has_model() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("smol"))
    registry.forget(registry.servers[0])
    discovering = registry.find("smol")
    advance(discovering)
    assert advance(registry.find("smol")).url == B


def test_catalog_does_not_use_discovery_that_started_earlier() -> None:
    registry = registry_of(A)
    first, second = registry.catalog(), registry.catalog()
    advance(first)
    wait = advance(second)
    advance(first, [serves("old")])
    assert wait.queue.green_acquire(blocking=False)
    assert isinstance(advance(second, True), SendAll)
    assert [target.card.id for target in advance(second, [serves("new")])] == ["new"]


# Timeouts


def discovery_timeout(steps: Any) -> float:
    """The timeout of the first discovery request (seconds)."""
    step = next(steps)
    assert isinstance(step, SendAll)
    assert {request.timeout for request in step.requests} == {step.timeout}
    return step.timeout


@pytest.mark.parametrize(("left", "given"), [(None, 5.0), (60.0, 5.0), (0.7, 0.7), (0.0, 0.1), (-3.0, 0.1)])
def test_discovery_timeout_is_limited_by_remaining_time_of_caller(left: float | None, given: float) -> None:
    assert discovery_timeout(ServerRegistry((A, B), StillClock()).find("smol", left_s=left)) == given
    assert discovery_timeout(ServerRegistry((A, B), StillClock()).catalog(left)) == given


def test_second_discovery_has_remaining_time_of_caller() -> None:
    clock = StillClock()
    registry = ServerRegistry((A, B), clock)
    play(registry.find("smol"), serves("smol"), serves("other"))
    clock.now += SECOND
    registry.forget(registry.servers[0])
    steps = registry.find("new", left_s=3.0)
    assert [request.base for request in next(steps).requests] == [A]
    clock.now += SECOND
    step = steps.send([serves("smol")])
    assert ([request.base for request in step.requests], step.timeout) == ([B], 2.0)


def test_discovery_timeout_is_short_when_other_server_has_model() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("smol"))
    registry.forget(registry.servers[0])
    assert discovery_timeout(registry.find("smol", left_s=0.3)) == 0.3
    assert discovery_timeout(registry.find("smol")) == GRACE_S


@pytest.mark.parametrize(
    ("listed", "enough"),
    [(serves("other", "SMOL"), True), (serves("other"), False), (reply({}, 503), False), (reply([]), False)],
)
def test_discovery_grace_starts_when_one_server_has_model(listed: Any, enough: bool) -> None:
    step = next(registry_of().find("smol"))
    assert (step.grace, step.enough(listed)) == (GRACE_S, enough)


def test_catalog_waits_for_all_servers() -> None:
    assert not next(registry_of().catalog()).enough(serves("smol"))


def test_waiting_call_repeats_timed_out_discovery_when_it_has_more_time() -> None:
    registry = ServerRegistry((A,), StillClock())
    short, long, other_short = (
        registry.find("smol", left_s=0.5),
        registry.find("smol"),
        registry.find("smol", left_s=0.9),
    )
    advance(short)
    advance(long)
    advance(other_short)
    late = server_timeout(A, 0.5)
    with pytest.raises(ServerTimeout):
        advance(short, [late])
    assert advance(long, True).timeout == DISCOVERY_TIMEOUT_S
    with pytest.raises(ServerTimeout):
        advance(other_short, True)


# Half-open circuits


def test_failed_discovery_of_half_open_server_opens_circuit_again() -> None:
    registry = registry_of(A)
    server = registry.servers[0]
    for _ in range(FAILURES):
        server.record_failure(registry.clock.ticks(), UNREACHABLE)
    registry.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    with pytest.raises(CircuitOpen):
        play(registry.find("smol"), UNREACHABLE)
    with pytest.raises(CircuitOpen):
        play(registry.find("smol"))


def test_successful_discovery_leaves_half_open_probe_to_call() -> None:
    registry = registry_of(A)
    server = registry.servers[0]
    for _ in range(FAILURES):
        server.record_failure(registry.clock.ticks(), UNREACHABLE)
    registry.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    assert url(play(registry.find("smol"), serves("smol"))) == A
    now = registry.clock.ticks()
    assert (server.breaker.state(now), server.breaker.allows(now)) == ("half-open", True)


# Load balancing


def test_first_of_idle_servers_is_found() -> None:
    assert url(play(registry_of().find("smol"), serves("smol"), serves("smol"))) == A


def test_server_with_fewest_calls_in_flight_is_found() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("smol"))
    registry.begin_request(registry.servers[0])
    assert url(play(registry.find("smol"))) == B
    registry.begin_request(registry.servers[1])
    assert url(play(registry.find("smol"))) == A
    for server in registry.servers:
        registry.end_request(server)
    assert [server.in_flight for server in registry.servers] == [0, 0]


def test_tried_servers_are_not_found() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("smol"))
    assert url(play(registry.find("smol", registry.servers[:1]))) == B
    assert url(play(registry.find("smol", registry.servers))) is None


# Errors


def test_error_of_unreachable_server_names_model_and_reason() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A} for model 'smol': refused"):
        play(registry_of(A).find("smol"), UNREACHABLE, UNREACHABLE)


def test_error_of_timed_out_server_names_model_and_time() -> None:
    with pytest.raises(ServerUnreachable) as caught:
        play(registry_of(A).find("smol"), server_timeout(A, 5.0))
    assert str(caught.value).startswith(
        f"The vLLM server at {A} accepted the connection but did not answer within 5 s (model 'smol')."
    )


def test_error_of_several_servers_distinguishes_timeouts() -> None:
    with pytest.raises(ServerUnreachable) as caught:
        play(registry_of().find("smol"), UNREACHABLE, server_timeout(B, 5.0))
    assert f"{A}, {B} (it accepted the connection but did not answer within 5 s) for model" in str(caught.value)


def test_local_error_is_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="the client has been closed"):
        play(registry_of(A).find("smol"), RuntimeError("the client has been closed"))


def test_error_names_all_unreachable_servers() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A}, {B} for model 'smol'"):
        play(registry_of().find("smol"), UNREACHABLE, UNREACHABLE)


def test_authorization_error_has_precedence_over_unreachable_servers() -> None:
    with pytest.raises(ResponseError, match=f"{B} requires a valid API key"):
        play(registry_of().find("smol"), UNREACHABLE, reply({"error": "Unauthorized"}, 401))


@pytest.mark.parametrize(
    ("status", "why"),
    [(503, "is still loading, or its proxy cannot reach it"), (429, "is overloaded"), (500, "is unhealthy")],
)
def test_error_of_server_that_is_not_ready_has_status_and_reason(status: int, why: str) -> None:
    with pytest.raises(ServerNotReady) as caught:
        play(registry_of(A).find("smol"), Reply(status, b"wait", retry_after=7.0))
    assert caught.value.error == (
        f"{A} {why}: GET {A}/v1/models returned status {status} (wait). It is ready when GET {A}/health returns "
        "status 200. Please check that VLLM_URLS names it."
    )
    assert (caught.value.status_code, caught.value.retry_after) == (status, 7.0)


def test_failed_discovery_is_repeated_in_same_call() -> None:
    registry = registry_of(A)
    play(registry.find("smol"), serves("smol"))
    since = registry.clock.ticks()
    with pytest.raises(ServerNotReady):
        play(registry.find("new", (), since), reply({}, 503))
    assert url(play(registry.find("new", (), since), serves("smol", "new"))) == A


def test_connections_exhausted_does_not_count_as_server_failure() -> None:
    registry = registry_of()
    play(registry.find("smol"), serves("smol"), serves("other"))
    for _ in range(2 * FAILURES):
        with pytest.raises(ConnectionsExhausted, match="Too many open files"):
            play(registry.find("new"), serves("smol"), connections_exhausted(B, "Too many open files"))
    assert url(play(registry.find("other"))) == B


@pytest.mark.parametrize(
    "failure", [UNREACHABLE, reply({}, 503), reply({}, 500), reply([]), incomplete_reply(A, "reset")]
)
def test_circuit_opens_after_failed_discoveries(failure: Any) -> None:
    registry = registry_of(A)
    for _ in range(FAILURES):
        with pytest.raises((ServerUnreachable, ResponseError)):
            play(registry.find("smol"), failure)
    with pytest.raises(CircuitOpen):
        play(registry.find("smol"))


@pytest.mark.parametrize("failure", [reply({}, 429), reply({"error": "no"}, 401)])
def test_busy_and_authorization_errors_of_discovery_do_not_count(failure: Any) -> None:
    registry = registry_of(A)
    for _ in range(2 * FAILURES):
        with pytest.raises(ResponseError):
            play(registry.find("smol"), failure)
    assert registry.servers[0].breaker.failures == 0


def test_circuit_opens_after_discovery_timeouts() -> None:
    registry = registry_of(A)
    for _ in range(FAILURES):
        with pytest.raises(ServerUnreachable, match="did not answer within 5 s"):
            play(registry.find("smol"), server_timeout("the vLLM server", 5.0))
    with pytest.raises(CircuitOpen):
        play(registry.find("smol"))


def test_error_says_that_server_does_not_answer_like_vllm() -> None:
    with pytest.raises(ResponseError, match=f"{A} does not answer like a vLLM server: .* status 404") as caught:
        play(registry_of(A).find("smol"), reply({"detail": "Not Found"}, 404))
    assert caught.value.status_code == 502


# Catalog


def test_catalog_lists_each_model_once() -> None:
    found = play(registry_of().catalog(), serves("smol", "one"), serves("smol", "two")).result
    assert [(target.card.id, target.url) for target in found] == [("smol", A), ("one", A), ("two", B)]


def test_catalog_requests_models_each_time() -> None:
    registry = registry_of()
    play(registry.catalog(), serves("smol"), serves())
    assert [target.card.id for target in play(registry.catalog(), serves(), serves("new")).result] == ["new"]


def test_catalog_lists_models_of_reachable_servers() -> None:
    assert [target.url for target in play(registry_of().catalog(), UNREACHABLE, serves("smol")).result] == [B]


def test_catalog_raises_error_when_no_server_is_reachable() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A}, {B}"):
        play(registry_of().catalog(), UNREACHABLE, UNREACHABLE)


# Races


def test_find_raises_circuit_open_when_probe_ends_during_find() -> None:
    registry = registry_of(A)
    server = registry.servers[0]
    server.models = (ModelCard("smol"),)
    allowed = iter([False] * 4)
    server.breaker.closed = False
    server.breaker.allows = lambda _: next(allowed, True)  # type: ignore[method-assign]
    with pytest.raises(CircuitOpen, match=A):
        play(registry.find("smol"))


def test_discovery_is_repeated_when_another_call_forgets_server() -> None:
    registry = registry_of(A)
    steps = registry.find("smol")
    next(steps)
    least_busy = registry._least_busy

    def forgotten(name: str, servers: Any, now: int) -> Any:
        registry.forget(registry.servers[0])
        registry._least_busy = least_busy  # type: ignore[method-assign]
        return None

    registry._least_busy = forgotten  # type: ignore[method-assign]
    repeated = steps.send([serves("smol")])
    assert [request.path for request in repeated.requests] == ["/v1/models"]
    with pytest.raises(StopIteration) as found:
        steps.send([serves("smol")])
    assert found.value.value.url == A
