"""What each server serves, and which one takes a call."""

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
REFUSED = unreachable(A, None, "refused")


def serves(*names: str) -> Any:
    return reply({"data": [{"id": name} for name in names]})


def fleet(*urls: str) -> ServerRegistry:
    return ServerRegistry(urls or (A, B), FakeClock())


def url(played: Play) -> str | None:
    """The server that was found."""
    return None if played.result is None else str(played.result.url)


# Names on a server


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
def test_a_server_answers_to_a_name_as_ollama_compares_names(name: str, found: str | None) -> None:
    card = Server(A, (ModelCard("smol"), ModelCard("Qwen/Qwen3-8B"))).model(name)
    assert (card and card.id) == found


def test_the_exact_name_goes_first() -> None:
    server = Server(A, (ModelCard("SMOL"), ModelCard("smol")))
    assert (server.model("SMOL"), server.model("smol")) == (ModelCard("SMOL"), ModelCard("smol"))


def test_a_server_that_was_not_asked_has_no_names() -> None:
    assert (Server(A).model("smol"), Server(A).model_names()) == (None, [])


# Learning


def test_every_server_is_asked_what_it_serves() -> None:
    played = play(fleet().find("smol"), serves("smol"), serves("other"))
    assert [(request.method, request.url) for request in played.requests] == [
        ("GET", f"{A}/v1/models"),
        ("GET", f"{B}/v1/models"),
    ]
    assert [request.timeout for request in played.requests] == [DISCOVERY_TIMEOUT_S] * 2


def test_what_was_learnt_is_remembered() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("other"))
    assert [url(play(both.find(name))) for name in ("smol", "other")] == [A, B]


def test_an_unknown_name_is_asked_for_anew() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("other"))
    assert url(play(both.find("new"), serves("smol"), serves("new"))) == B


def test_a_name_that_no_server_has_is_none() -> None:
    assert url(play(fleet().find("nope"), serves("smol"), serves("other"))) is None


def test_a_server_that_is_forgotten_is_asked_again() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("smol"))
    both.forget(both.servers[0])
    assert [request.base for request in play(both.find("smol"), serves("smol")).requests] == [A]


def test_a_server_out_of_reach_is_asked_again_after_a_while() -> None:
    both = fleet()
    assert url(play(both.find("smol"), REFUSED, serves("smol"))) == B
    assert play(both.find("smol")).requests == []
    both.clock.now += int(REDISCOVERY_S * SECOND)  # type: ignore[attr-defined]
    assert url(play(both.find("smol"), serves("smol"))) == A


@pytest.mark.parametrize(
    "trouble",
    [
        REFUSED,
        server_timeout(A, 5.0),
        incomplete_reply(A, "reset"),
        reply({"error": "no"}, 401),
        reply([]),
        reply({}, 503),
    ],
    ids=["refused", "late", "cut", "401", "malformed", "503"],
)
def test_a_server_in_trouble_is_stood_in_for(trouble: Any) -> None:
    assert url(play(fleet().find("smol"), trouble, serves("smol"))) == B


def test_a_server_that_just_said_that_it_lacks_the_model_is_not_asked_again() -> None:
    played = play(fleet().find("nope"), serves("smol"), serves("other"))
    assert [request.base for request in played.requests] == [A, B]


def test_where_the_model_is_known_to_be_nobody_else_is_asked_for_it() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("other"))
    assert play(both.find("smol", both.servers[:1])).requests == []


def test_where_it_is_not_known_any_more_the_others_are_asked_for_it() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("other"))
    both.forget(both.servers[0])
    played = play(both.find("smol", both.servers[:1]), serves("smol"))
    assert ([request.base for request in played.requests], url(played)) == ([B], B)


def test_what_a_server_has_said_since_the_call_began_it_is_not_asked_again() -> None:
    both = fleet()
    since = both.clock.ticks()
    play(both.find("smol", (), since), serves("smol"), serves("other"))
    assert play(both.find("nope", (), since)).requests == []
    assert len(play(both.find("nope"), serves("smol"), serves("other")).requests) == 2


# Learning at once


def stepped(exchange: Any, outcome: Any = None) -> Any:
    """The next step of an exchange, or at its end its result."""
    try:
        return exchange.send(outcome)
    except StopIteration as stop:
        return stop.value


def test_of_calls_that_come_at_once_one_asks_and_the_others_wait_for_what_it_hears() -> None:
    made = fleet(A)
    first, *others = [made.find("smol") for _ in range(3)]
    assert isinstance(stepped(first), SendAll)
    waits = [stepped(other) for other in others]
    assert [wait.timeout for wait in waits] == [DISCOVERY_TIMEOUT_S + WAITER_MARGIN_S] * 2
    assert stepped(first, [serves("smol")]).url == A
    assert [wait.queue.green_acquire(blocking=False) for wait in waits] == [True, True]
    assert [stepped(other, True).url for other in others] == [A, A]


def test_who_waited_does_not_ask_a_server_again_that_was_just_out_of_reach() -> None:
    both = fleet()
    first, second = both.find("smol"), both.find("smol")
    stepped(first)
    wait = stepped(second)
    assert isinstance(wait, AcquireSlot)
    assert stepped(first, [REFUSED, serves("smol")]).url == B
    assert wait.queue.green_acquire(blocking=False)
    assert stepped(second, True).url == B


def test_when_the_call_that_asks_goes_away_the_next_one_asks() -> None:
    made = fleet(A)
    first, second = made.find("smol"), made.find("smol")
    stepped(first)
    wait = stepped(second)
    first.close()
    assert wait.queue.green_acquire(blocking=False)
    assert [request.path for request in stepped(second, True).requests] == ["/v1/models"]
    assert stepped(second, [serves("smol")]).url == A


def test_a_call_that_goes_away_has_not_asked() -> None:
    both = fleet()
    gone = both.find("smol")
    stepped(gone)
    gone.close()
    assert [request.base for request in play(both.find("smol"), serves("smol"), serves("smol")).requests] == [A, B]


def test_a_server_that_is_being_asked_is_not_waited_for_where_another_has_the_model() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("smol"))
    both.forget(both.servers[0])
    asks = both.find("smol")
    stepped(asks)
    assert stepped(both.find("smol")).url == B


def test_a_list_is_not_what_was_heard_before_it_was_asked_for() -> None:
    made = fleet(A)
    first, second = made.catalog(), made.catalog()
    stepped(first)
    wait = stepped(second)
    stepped(first, [serves("old")])
    assert wait.queue.green_acquire(blocking=False)
    assert isinstance(stepped(second, True), SendAll)
    assert [target.card.id for target in stepped(second, [serves("new")])] == ["new"]


# How long


def time_given(exchange: Any) -> float:
    """The seconds that the servers have to say what they serve."""
    step = next(exchange)
    assert isinstance(step, SendAll)
    assert {request.timeout for request in step.requests} == {step.timeout}
    return step.timeout


@pytest.mark.parametrize(("left", "given"), [(None, 5.0), (60.0, 5.0), (0.7, 0.7), (0.0, 0.1), (-3.0, 0.1)])
def test_servers_have_no_more_time_than_is_left_of_the_callers_timeout(left: float | None, given: float) -> None:
    assert time_given(ServerRegistry((A, B), StillClock()).find("smol", left_s=left)) == given
    assert time_given(ServerRegistry((A, B), StillClock()).catalog(left)) == given


def test_what_is_asked_after_that_has_the_rest_of_it() -> None:
    clock = StillClock()
    both = ServerRegistry((A, B), clock)
    play(both.find("smol"), serves("smol"), serves("other"))
    clock.now += SECOND
    both.forget(both.servers[0])
    exchange = both.find("new", left_s=3.0)
    assert [request.base for request in next(exchange).requests] == [A]
    clock.now += SECOND
    step = exchange.send([serves("smol")])
    assert ([request.base for request in step.requests], step.timeout) == ([B], 2.0)


def test_while_another_has_the_model_a_server_has_little_time() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("smol"))
    both.forget(both.servers[0])
    assert time_given(both.find("smol", left_s=0.3)) == 0.3
    assert time_given(both.find("smol")) == GRACE_S


@pytest.mark.parametrize(
    ("told", "enough"),
    [(serves("other", "SMOL"), True), (serves("other"), False), (reply({}, 503), False), (reply([]), False)],
)
def test_the_others_have_little_time_once_one_has_the_model(told: Any, enough: bool) -> None:
    step = next(fleet().find("smol"))
    assert (step.grace, step.enough(told)) == (GRACE_S, enough)


def test_a_list_waits_for_all() -> None:
    assert not next(fleet().catalog()).enough(serves("smol"))


def test_who_waited_for_a_call_in_a_hurry_asks_a_silent_server_with_its_own_time() -> None:
    made = ServerRegistry((A,), StillClock())
    hurried, patient, likewise = made.find("smol", left_s=0.5), made.find("smol"), made.find("smol", left_s=0.9)
    stepped(hurried)
    stepped(patient)
    stepped(likewise)
    late = server_timeout(A, 0.5)
    with pytest.raises(ServerTimeout):
        stepped(hurried, [late])
    assert stepped(patient, True).timeout == DISCOVERY_TIMEOUT_S
    with pytest.raises(ServerTimeout):
        stepped(likewise, True)


# A circuit that is half open


def test_a_server_that_is_asked_on_trial_and_is_not_there_is_left_alone_for_as_long_again() -> None:
    made = fleet(A)
    server = made.servers[0]
    for _ in range(FAILURES):
        server.record_failure(made.clock.ticks(), REFUSED)
    made.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    with pytest.raises(CircuitOpen):
        play(made.find("smol"), REFUSED)
    with pytest.raises(CircuitOpen):
        play(made.find("smol"))


def test_what_a_server_says_on_trial_leaves_the_trial_to_the_call() -> None:
    made = fleet(A)
    server = made.servers[0]
    for _ in range(FAILURES):
        server.record_failure(made.clock.ticks(), REFUSED)
    made.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    assert url(play(made.find("smol"), serves("smol"))) == A
    now = made.clock.ticks()
    assert (server.breaker.state(now), server.breaker.allows(now)) == ("half-open", True)


# Sharing


def test_of_two_idle_servers_the_first_takes_the_call() -> None:
    assert url(play(fleet().find("smol"), serves("smol"), serves("smol"))) == A


def test_the_one_with_the_fewest_calls_in_flight_takes_the_next() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("smol"))
    both.begin_request(both.servers[0])
    assert url(play(both.find("smol"))) == B
    both.begin_request(both.servers[1])
    assert url(play(both.find("smol"))) == A
    for server in both.servers:
        both.end_request(server)
    assert [server.in_flight for server in both.servers] == [0, 0]


def test_a_server_that_failed_the_call_is_avoided() -> None:
    both = fleet()
    play(both.find("smol"), serves("smol"), serves("smol"))
    assert url(play(both.find("smol", both.servers[:1]))) == B
    assert url(play(both.find("smol", both.servers))) is None


# Trouble everywhere


def test_one_server_out_of_reach_is_told_with_the_model_and_the_reason() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A} for model 'smol': refused"):
        play(fleet(A).find("smol"), REFUSED, REFUSED)


def test_one_server_that_is_silent_is_told_with_the_model_and_the_time() -> None:
    with pytest.raises(ServerUnreachable) as caught:
        play(fleet(A).find("smol"), server_timeout(A, 5.0))
    assert str(caught.value).startswith(
        f"The vLLM server at {A} accepted the connection but did not answer within 5 s (model 'smol')."
    )


def test_of_several_servers_the_silent_ones_are_told_apart() -> None:
    with pytest.raises(ServerUnreachable) as caught:
        play(fleet().find("smol"), REFUSED, server_timeout(B, 5.0))
    assert f"{A}, {B} (it accepted the connection but did not answer within 5 s) for model" in str(caught.value)


def test_a_mistake_of_this_side_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="the client has been closed"):
        play(fleet(A).find("smol"), RuntimeError("the client has been closed"))


def test_all_servers_out_of_reach_are_told() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A}, {B} for model 'smol'"):
        play(fleet().find("smol"), REFUSED, REFUSED)


def test_a_refusal_is_told_before_those_out_of_reach() -> None:
    with pytest.raises(ResponseError, match=f"{B} requires a valid API key"):
        play(fleet().find("smol"), REFUSED, reply({"error": "Unauthorized"}, 401))


@pytest.mark.parametrize(
    ("status", "why"),
    [(503, "is still loading, or its proxy cannot reach it"), (429, "is overloaded"), (500, "is unhealthy")],
)
def test_a_server_that_may_list_its_models_later_is_told_with_its_status_and_its_reason(status: int, why: str) -> None:
    with pytest.raises(ServerNotReady) as caught:
        play(fleet(A).find("smol"), Reply(status, b"wait", retry_after=7.0))
    assert caught.value.error == (
        f"{A} {why}: GET {A}/v1/models returned status {status} (wait). It is ready when GET {A}/health returns "
        "status 200. Please check that VLLM_URLS names it."
    )
    assert (caught.value.status_code, caught.value.retry_after) == (status, 7.0)


def test_what_a_server_could_not_say_it_is_asked_again_in_the_same_call() -> None:
    made = fleet(A)
    play(made.find("smol"), serves("smol"))
    since = made.clock.ticks()
    with pytest.raises(ServerNotReady):
        play(made.find("new", (), since), reply({}, 503))
    assert url(play(made.find("new", (), since), serves("smol", "new"))) == A


def test_that_this_process_can_not_connect_is_no_servers_fault() -> None:
    made = fleet()
    play(made.find("smol"), serves("smol"), serves("other"))
    for _ in range(2 * FAILURES):
        with pytest.raises(ConnectionsExhausted, match="Too many open files"):
            play(made.find("new"), serves("smol"), connections_exhausted(B, "Too many open files"))
    assert url(play(made.find("other"))) == B


@pytest.mark.parametrize("trouble", [REFUSED, reply({}, 503), reply({}, 500), reply([]), incomplete_reply(A, "reset")])
def test_what_the_breaker_counts_of_calls_it_counts_of_learning(trouble: Any) -> None:
    made = fleet(A)
    for _ in range(FAILURES):
        with pytest.raises((ServerUnreachable, ResponseError)):
            play(made.find("smol"), trouble)
    with pytest.raises(CircuitOpen):
        play(made.find("smol"))


@pytest.mark.parametrize("trouble", [reply({}, 429), reply({"error": "no"}, 401)])
def test_what_it_does_not_count_of_calls_it_does_not_count_of_learning(trouble: Any) -> None:
    made = fleet(A)
    for _ in range(2 * FAILURES):
        with pytest.raises(ResponseError):
            play(made.find("smol"), trouble)
    assert made.servers[0].breaker.failures == 0


def test_a_server_that_is_silent_to_all_is_left_alone() -> None:
    made = fleet(A)
    for _ in range(FAILURES):
        with pytest.raises(ServerUnreachable, match="did not answer within 5 s"):
            play(made.find("smol"), server_timeout("the vLLM server", 5.0))
    with pytest.raises(CircuitOpen):
        play(made.find("smol"))


def test_a_server_that_is_no_vllm_is_told() -> None:
    with pytest.raises(ResponseError, match=f"{A} does not answer like a vLLM server: .* status 404") as caught:
        play(fleet(A).find("smol"), reply({"detail": "Not Found"}, 404))
    assert caught.value.status_code == 502


# The catalogue


def test_the_catalogue_has_each_model_once() -> None:
    found = play(fleet().catalog(), serves("smol", "one"), serves("smol", "two")).result
    assert [(target.card.id, target.url) for target in found] == [("smol", A), ("one", A), ("two", B)]


def test_the_catalogue_is_asked_afresh() -> None:
    both = fleet()
    play(both.catalog(), serves("smol"), serves())
    assert [target.card.id for target in play(both.catalog(), serves(), serves("new")).result] == ["new"]


def test_the_catalogue_is_of_the_servers_in_reach() -> None:
    assert [target.url for target in play(fleet().catalog(), REFUSED, serves("smol")).result] == [B]


def test_no_server_in_reach_is_no_empty_catalogue() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A}, {B}"):
        play(fleet().catalog(), REFUSED, REFUSED)


# Several calls at once


def test_a_server_whose_trial_ends_meanwhile_is_not_said_to_lack_the_model() -> None:
    made = fleet(A)
    server = made.servers[0]
    server.models = (ModelCard("smol"),)
    allowed = iter([False] * 4)
    server.breaker.closed = False
    server.breaker.allows = lambda _: next(allowed, True)  # type: ignore[method-assign]
    with pytest.raises(CircuitOpen, match=A):
        play(made.find("smol"))


def test_what_another_call_forgets_meanwhile_is_learnt_again() -> None:
    made = fleet(A)
    exchange = made.find("smol")
    next(exchange)
    least_busy = made._least_busy

    def forgotten(name: str, servers: Any, now: int) -> Any:
        made.forget(made.servers[0])
        made._least_busy = least_busy  # type: ignore[method-assign]
        return None

    made._least_busy = forgotten  # type: ignore[method-assign]
    asked = exchange.send([serves("smol")])
    assert [request.path for request in asked.requests] == ["/v1/models"]
    with pytest.raises(StopIteration) as found:
        exchange.send([serves("smol")])
    assert found.value.value.url == A
