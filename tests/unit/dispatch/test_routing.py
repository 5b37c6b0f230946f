"""From a request of the Ollama API to the exchange that answers it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ollama_compat import ResponseError, ServerUnreachable, Settings
from ollama_compat.dispatch import CATALOG_OPERATIONS, OPERATIONS, REFUSED, Dispatcher
from ollama_compat.mapping.errors import unreachable
from ollama_compat.steps import SendAll
from tests.play import MODEL_MISSING, FakeClock, Play, StillClock, chat_stream, delta, play, reply

A, B = "http://a:8001", "http://b:8002"
HI = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
SMOL, OTHER = reply({"data": [{"id": "smol"}]}), reply({"data": [{"id": "other"}]})
REFUSES = unreachable(A, "smol", "refused")


def translation(**settings: Any) -> Dispatcher:
    return Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B), **settings), FakeClock())


def chat(made: Dispatcher, *script: Any, **changes: Any) -> Play:
    exchange = made.dispatch("/api/chat", {**HI, **changes})
    assert exchange is not None
    return play(exchange, *script)


def asked(played: Play) -> list[str]:
    return [request.url for request in played.requests]


# Who answers


@pytest.mark.parametrize("path", ["https://ollama.com/api/web_search", "https://ollama.com/api/web_fetch", "/api/new"])
def test_what_vllm_knows_nothing_of_is_ollamas(path: str) -> None:
    assert translation().dispatch(path, {}) is None


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "smol:cloud"])
@pytest.mark.parametrize("path", [*OPERATIONS, *REFUSED, "/api/create", "/api/delete"])
def test_a_cloud_model_is_ollamas(path: str, name: str) -> None:
    assert translation().dispatch(path, {"model": name}) is None


@pytest.mark.parametrize("body", [{"source": "a-cloud", "destination": "b"}, {"model": "mine", "from": "a-cloud"}])
def test_what_is_made_from_a_cloud_model_is_ollamas(body: dict[str, Any]) -> None:
    assert translation().dispatch("/api/copy" if "source" in body else "/api/create", body) is None


@pytest.mark.parametrize("path", [*REFUSED, "/api/blobs/sha256:abc"])
def test_what_vllm_cant_do_is_refused_with_what_to_do_instead(path: str) -> None:
    exchange = translation().dispatch(path, {"model": "smol"})
    assert exchange is not None
    with pytest.raises(ResponseError, match=r"is not available on vLLM: .{20}") as caught:
        play(exchange)
    assert caught.value.status_code == 501


@pytest.mark.parametrize("path", [*OPERATIONS, *CATALOG_OPERATIONS])
def test_all_else_is_answered_here(path: str) -> None:
    exchange = translation().dispatch(path, {"model": "smol"})
    assert exchange is not None
    exchange.close()


# Which server


def test_a_call_goes_to_the_server_that_has_the_model() -> None:
    played = chat(translation(), OTHER, SMOL, chat_stream("Hi"))
    assert asked(played) == [f"{A}/v1/models", f"{B}/v1/models", f"{B}/v1/chat/completions"]


def test_a_server_that_is_gone_is_stood_in_for() -> None:
    played = chat(translation(), SMOL, SMOL, REFUSES, chat_stream("Hi"))
    assert asked(played)[2:] == [f"{A}/v1/chat/completions", f"{B}/v1/chat/completions"]
    assert played.parts[-1]["message"]["content"] == "Hi"


def test_a_model_that_moved_is_found_again() -> None:
    played = chat(translation(), SMOL, OTHER, MODEL_MISSING, SMOL, chat_stream("Hi"))
    assert asked(played)[-1] == f"{B}/v1/chat/completions"


def test_when_no_other_has_the_model_the_error_is_the_servers() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A} for model 'smol'"):
        chat(translation(), SMOL, OTHER, *[REFUSES] * 3)  # B has said what it has, so A alone is asked again


def test_when_all_are_gone_the_error_is_told_once() -> None:
    with pytest.raises(ServerUnreachable):
        chat(translation(), SMOL, SMOL, REFUSES, *[unreachable(B, "smol", "refused")] * 7)


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    played, begun = Play(), [delta(content="Hi"), delta(reasoning="Hm")]
    exchange = translation().dispatch("/api/chat", {**HI, "stream": True})
    assert exchange is not None
    with pytest.raises((ResponseError, ServerUnreachable)):
        played.run(exchange, SMOL, SMOL, begun, *[REFUSES] * 3)
    assert f"{B}/v1/chat/completions" not in asked(played)


@pytest.mark.parametrize("error", [[delta(content="Hi")], reply({"error": "boom"}, 500)])
def test_after_an_error_no_call_is_in_flight(error: Any) -> None:
    made = translation()
    with pytest.raises(ResponseError):
        chat(made, SMOL, OTHER, error, OTHER)
    assert [server.in_flight for server in made.registry.servers] == [0, 0]


def test_an_exchange_that_is_closed_early_is_in_flight_no_more() -> None:
    made = translation()
    exchange = made.dispatch("/api/chat", {**HI, "stream": True})
    assert exchange is not None
    next(exchange)
    for outcome in ([SMOL, OTHER], None):
        exchange.send(outcome)
    assert [server.in_flight for server in made.registry.servers] == [1, 0]
    exchange.close()
    assert [server.in_flight for server in made.registry.servers] == [0, 0]


def test_where_a_model_is_served() -> None:
    assert play(translation().locate("smol"), OTHER, SMOL).parts == [{"url": B}]


def test_who_serves_a_model_is_learnt_within_the_callers_timeout() -> None:
    made = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B)), StillClock())
    asked = [made.dispatch(path, HI, 0.7) for path in ("/api/chat", "/api/tags", "/api/ps")]
    asked.append(made.locate("smol", 0.7))
    for exchange in asked:
        assert exchange is not None
        step = next(exchange)
        assert isinstance(step, SendAll)
        assert step.timeout == 0.7
        exchange.close()


# Names


def test_a_name_goes_through_the_map() -> None:
    played = chat(translation(vllm_model_map={"exaone": "smol"}), SMOL, OTHER, chat_stream("Hi"), model="EXAONE")
    assert played.payload["model"] == "smol"
    assert played.parts[-1]["model"] == "EXAONE"


@pytest.mark.parametrize(
    ("path", "name", "text", "status"),
    [
        ("/api/chat", "nope", "model 'nope' not found", 404),
        ("/api/embed", "nope", 'model "nope" not found, try pulling it first', 404),
        ("/api/show", "nope", "model 'nope:latest' not found", 404),
        ("/api/chat", "a b//c", "invalid model name", 400),
    ],
)
def test_a_name_that_no_server_has(path: str, name: str, text: str, status: int) -> None:
    exchange = translation().dispatch(path, {"model": name})
    assert exchange is not None
    with pytest.raises(ResponseError) as caught:
        play(exchange, SMOL, OTHER)
    assert (caught.value.error, caught.value.status_code) == (text, status)


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize(("path", "status"), [("/api/chat", 400), ("/api/generate", 404)])
def test_no_name_is_refused_before_any_server_is_asked(path: str, name: str, status: int) -> None:
    exchange = translation().dispatch(path, {"model": name})
    assert exchange is not None
    with pytest.raises(ResponseError) as caught:
        play(exchange)
    assert caught.value.status_code == status


def test_what_the_servers_have_instead_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    made = translation(vllm_model_map={"exaone": "org/Exaone"})
    with caplog.at_level(logging.WARNING, "ollama_compat"):
        for _ in range(2):
            with pytest.raises(ResponseError):
                chat(made, SMOL, OTHER, model="exaone")
    assert [record.getMessage() for record in caplog.records] == [
        f"no server serves 'org/Exaone', requested as 'exaone': {A} serves smol; {B} serves other"
    ]
