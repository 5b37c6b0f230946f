"""Several vLLM servers: discovery, load balancing, and failover between servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError

from .caller import Caller
from .network import CHAT, Answer, Network, chat_reply, content_event, document, event, stream

Connect = Callable[..., Caller]
A, B, C = "http://a:8001", "http://b:8002", "http://c:8003"
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
GONE = document({"error": {"message": "The model `smol` does not exist.", "code": 404}}, 404)


@pytest.fixture
def pair(connect: Connect, network: Network) -> Caller:
    """Two servers with one model."""
    network.serves(A, "smol").on(A + CHAT, chat_reply("A"))
    network.serves(B, "smol").on(B + CHAT, chat_reply("B"))
    return connect(vllm_urls=[A, B])


def answered(caller: Caller, **changes: Any) -> str:
    """The server that answered a chat."""
    return str(caller.chat(**{**HI, **changes}).message.content)


# Discovery


def test_discovery_happens_once(pair: Caller, network: Network) -> None:
    assert [answered(pair) for _ in range(3)] == ["A"] * 3
    assert (set(network.urls[:2]), network.urls[2:]) == ({f"{A}/v1/models", f"{B}/v1/models"}, [A + CHAT] * 3)


def test_call_is_sent_to_the_server_that_serves_the_model(pair: Caller, network: Network) -> None:
    network.serves(B, "other")
    assert answered(pair, model="other") == "B"


def test_creating_a_client_sends_no_request(pair: Caller, network: Network) -> None:
    assert network.requests == []


def test_unknown_name_triggers_discovery(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.serves(B, "new")
    assert answered(pair, model="new") == "B"


def test_moved_model_triggers_discovery(pair: Caller, network: Network) -> None:
    network.serves(B, "other")
    assert answered(pair) == "A"
    network.serves(B, "smol").serves(A, "other").on(A + CHAT, GONE)
    assert answered(pair) == "B"


def test_model_that_no_server_has_any_more_raises_the_404_of_ollama(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, GONE).on(B + CHAT, GONE)
    with pytest.raises(ResponseError, match="model 'smol' not found") as caught:
        pair.chat(**HI)
    assert caught.value.status_code == 404


def test_next_call_rediscovers_a_restarted_server(pair: Caller, network: Network) -> None:
    network.serves(B, "other").on(A + CHAT, GONE)
    with pytest.raises(ResponseError, match="not found"):
        pair.chat(**HI)
    network.on(A + CHAT, chat_reply("A again"))
    assert answered(pair) == "A again"


# Load balancing


def test_least_busy_server_gets_the_next_call(pair: Caller) -> None:
    first = pair.open("chat", **HI)
    assert pair.next(first).message.content == "A"
    assert answered(pair) == "B"
    pair.close(first)
    assert answered(pair) == "A"


def test_stream_that_is_read_to_its_end_is_not_outstanding(pair: Caller) -> None:
    pair.chat(**HI, stream=True)
    assert answered(pair) == "A"


def test_failed_stream_is_not_outstanding(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, stream(content_event("x")), chat_reply("A"))
    with pytest.raises(ResponseError):
        pair.chat(**HI, stream=True)
    assert answered(pair) == "A"


def test_closing_a_stream_closes_its_connection(pair: Caller, network: Network) -> None:
    first = pair.open("chat", **HI)
    pair.next(first)
    assert not network.streams[-1].closed
    pair.close(first)
    assert network.streams[-1].closed


def test_client_side_stop_string_closes_the_connection(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, chat_reply("one ", "two ", "three "))
    assert answered(pair, options={"stop": ["two", "1", "2", "3", "4"]}) == "one "
    assert network.streams[-1].closed


# Failover


def test_call_uses_other_server_when_one_is_down_from_the_start(pair: Caller, network: Network) -> None:
    network.down(A)
    assert [answered(pair), answered(pair)] == ["B", "B"]
    assert network.urls.count(f"{A}/v1/models") == 1


def test_call_uses_other_server_when_one_goes_down_later(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.down(A)
    assert answered(pair) == "B"


def test_recovered_server_is_used_again(pair: Caller, network: Network) -> None:
    network.down(A)
    assert answered(pair) == "B"
    network.serves(A, "smol").on(A + CHAT, chat_reply("A again")).down(B)
    assert answered(pair) == "A again"


@pytest.mark.parametrize(
    "trouble",
    [
        *(httpx.ConnectTimeout("timed out"), httpx.ReadTimeout("timed out"), httpx.RemoteProtocolError("cut off")),
        *(httpx.ReadError("reset"), Answer(503, b"loading"), Answer(200, b"<html>"), Answer(401, b"")),
    ],
    ids=str,
)
def test_call_uses_other_server_when_one_cannot_list_its_models(
    pair: Caller, network: Network, trouble: Answer | Exception
) -> None:
    network.on(f"{A}/v1/models", trouble)
    assert answered(pair) == "B"


@pytest.mark.parametrize("problem", [httpx.ConnectError("refused"), httpx.ConnectTimeout("timed out")])
def test_call_uses_other_server_when_one_refuses_connections(
    pair: Caller, network: Network, problem: Exception
) -> None:
    network.on(A + CHAT, problem)
    assert answered(pair) == "B"


@pytest.mark.parametrize("problem", [httpx.ReadError("reset"), httpx.RemoteProtocolError("disconnected")])
def test_call_uses_other_server_when_one_disconnects_before_its_reply(
    pair: Caller, network: Network, problem: Exception
) -> None:
    network.on(A + CHAT, problem)
    assert answered(pair) == "B"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_call_uses_other_server_when_one_returns_a_server_error(pair: Caller, network: Network, status: int) -> None:
    network.on(A + CHAT, Answer(status, b"boom"))
    assert answered(pair) == "B"


def test_timed_out_call_is_not_sent_to_another_server(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, httpx.ReadTimeout("timed out"))
    with pytest.raises(httpx.ReadTimeout, match=A):
        pair.chat(**HI)
    assert B + CHAT not in network.urls


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422])
def test_rejected_request_is_not_sent_to_another_server(pair: Caller, network: Network, status: int) -> None:
    network.on(A + CHAT, Answer(status, b"boom"))
    with pytest.raises(ResponseError, match="boom"):
        pair.chat(**HI)
    assert B + CHAT not in network.urls


def test_interrupted_answer_is_not_restarted(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, stream(content_event("x"), httpx.ReadError("reset")))
    parts, error = pair.until_error(pair.open("chat", **HI))
    assert [part.message.content for part in parts] == ["x"]
    assert isinstance(error, ResponseError)
    assert B + CHAT not in network.urls


def test_started_answer_is_not_restarted_when_its_server_disappears(pair: Caller, network: Network) -> None:
    thoughts = event({"choices": [{"index": 0, "delta": {"reasoning": "hm"}, "finish_reason": None}]})
    network.on(A + CHAT, stream(content_event("x"), thoughts)).on(f"{A}/tokenize", httpx.ConnectError("refused"))
    parts, error = pair.until_error(pair.open("chat", **HI))
    assert parts[0].message.content == "x"
    assert isinstance(error, (ConnectionError, ResponseError))
    assert B + CHAT not in network.urls


# No server reachable


def test_connection_error_names_all_servers_the_model_and_the_variable(connect: Connect, network: Network) -> None:
    with pytest.raises(ConnectionError) as caught:
        connect(vllm_urls=[A, B]).chat(**HI)
    text = str(caught.value)
    assert all(word in text for word in (A, B, "'smol'", "/health", "VLLM_URLS"))


def test_unknown_model_is_no_404_while_a_server_is_unreachable(pair: Caller, network: Network) -> None:
    network.down(A)
    with pytest.raises(ConnectionError) as caught:
        pair.chat(**{**HI, "model": "nope"})
    assert f"Failed to connect to the vLLM servers {A} for model 'nope'" in str(caught.value)
    assert f"The reachable servers do not serve it ({B})" in str(caught.value)


def test_missing_key_is_reported_when_no_other_server_has_the_model(pair: Caller, network: Network) -> None:
    network.on(f"{A}/v1/models", document({"error": "Unauthorized"}, 401)).serves(B, "other")
    with pytest.raises(ResponseError, match=f"{A} requires a valid API key"):
        pair.chat(**HI)


# Lists


def test_list_contains_each_model_once(pair: Caller, network: Network) -> None:
    network.serves(B, "smol", "other")
    assert [model.model for model in pair.list().models] == ["smol:latest", "other:latest"]


def test_list_is_requested_every_time(pair: Caller, network: Network) -> None:
    pair.list()
    network.serves(B, "smol", "new")
    assert [model.model for model in pair.list().models] == ["smol:latest", "new:latest"]


def test_list_contains_the_models_of_reachable_servers(pair: Caller, network: Network) -> None:
    network.down(A)
    assert [model.model for model in pair.list().models] == ["smol:latest"]


def test_list_raises_error_when_no_server_is_reachable(connect: Connect) -> None:
    with pytest.raises(ConnectionError, match=A):
        connect(vllm_urls=[A, B]).list()


def test_list_contains_the_mapped_names(connect: Connect, network: Network) -> None:
    network.serves(A, "org/Smol", "plain")
    caller = connect(vllm_urls=A, vllm_model_map={"exaone3.5:7.8b": "org/Smol", "absent": "org/Absent"})
    assert [model.model for model in caller.list().models] == ["exaone3.5:7.8b", "plain:latest"]


def test_missing_model_raises_connection_error_while_a_server_is_unreachable(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.on(A + CHAT, GONE).serves(A, "other").down(B)
    with pytest.raises(ConnectionError, match=B):
        pair.chat(**HI)


def test_known_model_is_still_served_when_discovery_times_out(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    for server in (A, B):
        network.on(f"{server}/v1/models", httpx.ReadTimeout("timed out"))
    with pytest.raises((ConnectionError, ResponseError)):
        pair.chat(**{**HI, "model": "nope"})
    assert answered(pair) == "A"
