"""Several vLLM servers: what each serves is learnt once, calls are shared out, the servers stand in for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError

from .caller import Caller
from .network import CHAT, Answer, Network, answering, document, event, said, stream

Connect = Callable[..., Caller]
A, B, C = "http://a:8001", "http://b:8002", "http://c:8003"
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
GONE = document({"error": {"message": "The model `smol` does not exist.", "code": 404}}, 404)


@pytest.fixture
def pair(connect: Connect, network: Network) -> Caller:
    """Two servers with one model."""
    network.serves(A, "smol").on(A + CHAT, answering("A"))
    network.serves(B, "smol").on(B + CHAT, answering("B"))
    return connect(vllm_urls=[A, B])


def answered(caller: Caller, **changes: Any) -> str:
    """Who answered a chat."""
    return str(caller.chat(**{**HI, **changes}).message.content)


# Learning


def test_what_is_served_is_learnt_once(pair: Caller, network: Network) -> None:
    assert [answered(pair) for _ in range(3)] == ["A"] * 3
    assert (set(network.urls[:2]), network.urls[2:]) == ({f"{A}/v1/models", f"{B}/v1/models"}, [A + CHAT] * 3)


def test_a_model_goes_to_the_server_that_has_it(pair: Caller, network: Network) -> None:
    network.serves(B, "other")
    assert answered(pair, model="other") == "B"


def test_making_a_client_asks_nothing(pair: Caller, network: Network) -> None:
    assert network.asked == []


def test_an_unknown_name_is_learnt_anew(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.serves(B, "new")
    assert answered(pair, model="new") == "B"


def test_a_model_that_moved_is_learnt_anew(pair: Caller, network: Network) -> None:
    network.serves(B, "other")
    assert answered(pair) == "A"
    network.serves(B, "smol").serves(A, "other").on(A + CHAT, GONE)
    assert answered(pair) == "B"


def test_a_model_that_is_gone_everywhere_is_ollamas_404(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, GONE).on(B + CHAT, GONE)
    with pytest.raises(ResponseError, match="model 'smol' not found") as caught:
        pair.chat(**HI)
    assert caught.value.status_code == 404


def test_a_restarted_server_with_another_model_is_learnt_anew_for_the_next_call(pair: Caller, network: Network) -> None:
    network.serves(B, "other").on(A + CHAT, GONE)
    with pytest.raises(ResponseError, match="not found"):
        pair.chat(**HI)
    network.on(A + CHAT, answering("A again"))
    assert answered(pair) == "A again"


# Sharing


def test_the_least_busy_server_takes_the_next_call(pair: Caller) -> None:
    first = pair.open("chat", **HI)
    assert pair.next(first).message.content == "A"
    assert answered(pair) == "B"
    pair.close(first)
    assert answered(pair) == "A"


def test_a_stream_that_is_read_to_its_end_is_no_load_any_more(pair: Caller) -> None:
    pair.chat(**HI, stream=True)
    assert answered(pair) == "A"


def test_a_stream_that_fails_is_no_load_any_more(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, stream(said("x")), answering("A"))
    with pytest.raises(ResponseError):
        pair.chat(**HI, stream=True)
    assert answered(pair) == "A"


def test_closing_a_stream_closes_its_connection(pair: Caller, network: Network) -> None:
    first = pair.open("chat", **HI)
    pair.next(first)
    assert not network.streams[-1].closed
    pair.close(first)
    assert network.streams[-1].closed


def test_a_stop_string_of_this_side_closes_the_connection(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, answering("one ", "two ", "three "))
    assert answered(pair, options={"stop": ["two", "1", "2", "3", "4"]}) == "one "
    assert network.streams[-1].closed


# Standing in


def test_a_server_that_is_down_from_the_start_is_stood_in_for(pair: Caller, network: Network) -> None:
    network.down(A)
    assert [answered(pair), answered(pair)] == ["B", "B"]
    assert network.urls.count(f"{A}/v1/models") == 1


def test_a_server_that_goes_down_later_is_stood_in_for(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.down(A)
    assert answered(pair) == "B"


def test_a_server_that_comes_back_is_used_again(pair: Caller, network: Network) -> None:
    network.down(A)
    assert answered(pair) == "B"
    network.serves(A, "smol").on(A + CHAT, answering("A again")).down(B)
    assert answered(pair) == "A again"


@pytest.mark.parametrize(
    "trouble",
    [
        *(httpx.ConnectTimeout("timed out"), httpx.ReadTimeout("timed out"), httpx.RemoteProtocolError("cut off")),
        *(httpx.ReadError("reset"), Answer(503, b"loading"), Answer(200, b"<html>"), Answer(401, b"")),
    ],
    ids=str,
)
def test_a_server_that_cant_list_its_models_is_stood_in_for(
    pair: Caller, network: Network, trouble: Answer | Exception
) -> None:
    network.on(f"{A}/v1/models", trouble)
    assert answered(pair) == "B"


@pytest.mark.parametrize("problem", [httpx.ConnectError("refused"), httpx.ConnectTimeout("timed out")])
def test_a_server_that_takes_no_connection_is_stood_in_for(pair: Caller, network: Network, problem: Exception) -> None:
    network.on(A + CHAT, problem)
    assert answered(pair) == "B"


@pytest.mark.parametrize("problem", [httpx.ReadError("reset"), httpx.RemoteProtocolError("disconnected")])
def test_a_server_that_hangs_up_before_it_answers_is_stood_in_for(
    pair: Caller, network: Network, problem: Exception
) -> None:
    network.on(A + CHAT, problem)
    assert answered(pair) == "B"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_says_it_cannot_is_stood_in_for(pair: Caller, network: Network, status: int) -> None:
    network.on(A + CHAT, Answer(status, b"boom"))
    assert answered(pair) == "B"


def test_when_the_callers_time_is_up_nobody_else_is_asked(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, httpx.ReadTimeout("timed out"))
    with pytest.raises(httpx.ReadTimeout, match=A):
        pair.chat(**HI)
    assert B + CHAT not in network.urls


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422])
def test_a_refusal_is_not_sent_to_another_server(pair: Caller, network: Network, status: int) -> None:
    network.on(A + CHAT, Answer(status, b"boom"))
    with pytest.raises(ResponseError, match="boom"):
        pair.chat(**HI)
    assert B + CHAT not in network.urls


def test_an_answer_that_broke_off_is_not_begun_again(pair: Caller, network: Network) -> None:
    network.on(A + CHAT, stream(said("x"), httpx.ReadError("reset")))
    parts, error = pair.until_error(pair.open("chat", **HI))
    assert [part.message.content for part in parts] == ["x"]
    assert isinstance(error, ResponseError)
    assert B + CHAT not in network.urls


def test_an_answer_that_has_begun_is_not_begun_again_when_its_server_goes_away(pair: Caller, network: Network) -> None:
    thoughts = event({"choices": [{"index": 0, "delta": {"reasoning": "hm"}, "finish_reason": None}]})
    network.on(A + CHAT, stream(said("x"), thoughts)).on(f"{A}/tokenize", httpx.ConnectError("refused"))
    parts, error = pair.until_error(pair.open("chat", **HI))
    assert parts[0].message.content == "x"
    assert isinstance(error, (ConnectionError, ResponseError))
    assert B + CHAT not in network.urls


# Nobody there


def test_nobody_there_names_all_servers_the_model_and_what_to_check(connect: Connect, network: Network) -> None:
    with pytest.raises(ConnectionError) as caught:
        connect(vllm_urls=[A, B]).chat(**HI)
    said = str(caught.value)
    assert all(word in said for word in (A, B, "'smol'", "/health", "VLLM_URLS"))


def test_an_unknown_model_is_no_404_while_a_server_is_out_of_reach(pair: Caller, network: Network) -> None:
    network.down(A)
    with pytest.raises(ConnectionError) as caught:
        pair.chat(**{**HI, "model": "nope"})
    assert f"Failed to connect to the vLLM servers {A} for model 'nope'" in str(caught.value)
    assert f"The reachable servers do not serve it ({B})" in str(caught.value)


def test_a_server_that_wants_a_key_says_so_when_no_other_has_the_model(pair: Caller, network: Network) -> None:
    network.on(f"{A}/v1/models", document({"error": "Unauthorized"}, 401)).serves(B, "other")
    with pytest.raises(ResponseError, match=f"{A} requires a valid API key"):
        pair.chat(**HI)


# Lists


def test_the_list_holds_each_model_of_all_servers_once(pair: Caller, network: Network) -> None:
    network.serves(B, "smol", "other")
    assert [model.model for model in pair.list().models] == ["smol:latest", "other:latest"]


def test_the_list_is_asked_afresh(pair: Caller, network: Network) -> None:
    pair.list()
    network.serves(B, "smol", "new")
    assert [model.model for model in pair.list().models] == ["smol:latest", "new:latest"]


def test_the_list_holds_what_the_servers_in_reach_have(pair: Caller, network: Network) -> None:
    network.down(A)
    assert [model.model for model in pair.list().models] == ["smol:latest"]


def test_no_server_in_reach_is_no_empty_list(connect: Connect) -> None:
    with pytest.raises(ConnectionError, match=A):
        connect(vllm_urls=[A, B]).list()


def test_the_list_holds_the_names_that_services_use(connect: Connect, network: Network) -> None:
    network.serves(A, "org/Smol", "plain")
    caller = connect(vllm_urls=A, vllm_model_map={"exaone3.5:7.8b": "org/Smol", "absent": "org/Absent"})
    assert [model.model for model in caller.list().models] == ["exaone3.5:7.8b", "plain:latest"]


def test_a_model_that_is_gone_may_be_on_a_server_that_is_away(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    network.on(A + CHAT, GONE).serves(A, "other").down(B)
    with pytest.raises(ConnectionError, match=B):
        pair.chat(**HI)


def test_a_server_too_busy_to_say_what_it_serves_still_serves_it(pair: Caller, network: Network) -> None:
    assert answered(pair) == "A"
    for server in (A, B):
        network.on(f"{server}/v1/models", httpx.ReadTimeout("timed out"))
    with pytest.raises((ConnectionError, ResponseError)):
        pair.chat(**{**HI, "model": "nope"})
    assert answered(pair) == "A"
