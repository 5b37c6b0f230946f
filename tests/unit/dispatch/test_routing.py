"""Requests of the Ollama API: what answers each, at which server, and under which model name."""

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
UNREACHABLE = unreachable(A, "smol", "refused")


def dispatcher_of(**settings: Any) -> Dispatcher:
    return Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B), **settings), FakeClock())


def chat(dispatcher: Dispatcher, *script: Any, **changes: Any) -> Play:
    steps = dispatcher.dispatch("/api/chat", {**HI, **changes})
    assert steps is not None
    return play(steps, *script)


def urls(played: Play) -> list[str]:
    return [request.url for request in played.requests]


# Operations


@pytest.mark.parametrize("path", ["https://ollama.com/api/web_search", "https://ollama.com/api/web_fetch", "/api/new"])
def test_path_without_vllm_counterpart_is_for_ollama(path: str) -> None:
    assert dispatcher_of().dispatch(path, {}) is None


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "smol:cloud"])
@pytest.mark.parametrize("path", [*OPERATIONS, *REFUSED, "/api/create", "/api/delete"])
def test_cloud_model_is_for_ollama(path: str, name: str) -> None:
    assert dispatcher_of().dispatch(path, {"model": name}) is None


@pytest.mark.parametrize("body", [{"source": "a-cloud", "destination": "b"}, {"model": "mine", "from": "a-cloud"}])
def test_copy_and_create_from_cloud_model_are_for_ollama(body: dict[str, Any]) -> None:
    assert dispatcher_of().dispatch("/api/copy" if "source" in body else "/api/create", body) is None


@pytest.mark.parametrize("path", [*REFUSED, "/api/blobs/sha256:abc"])
def test_unsupported_path_is_refused_with_alternative(path: str) -> None:
    steps = dispatcher_of().dispatch(path, {"model": "smol"})
    assert steps is not None
    with pytest.raises(ResponseError, match=r"is not available on vLLM: .{20}") as caught:
        play(steps)
    assert caught.value.status_code == 501


@pytest.mark.parametrize("path", [*OPERATIONS, *CATALOG_OPERATIONS])
def test_operations_of_other_models_return_steps(path: str) -> None:
    steps = dispatcher_of().dispatch(path, {"model": "smol"})
    assert steps is not None
    steps.close()


# Servers


def test_call_goes_to_server_that_serves_model() -> None:
    played = chat(dispatcher_of(), OTHER, SMOL, chat_stream("Hi"))
    assert urls(played) == [f"{A}/v1/models", f"{B}/v1/models", f"{B}/v1/chat/completions"]


def test_call_fails_over_when_server_is_unreachable() -> None:
    played = chat(dispatcher_of(), SMOL, SMOL, UNREACHABLE, chat_stream("Hi"))
    assert urls(played)[2:] == [f"{A}/v1/chat/completions", f"{B}/v1/chat/completions"]
    assert played.parts[-1]["message"]["content"] == "Hi"


def test_moved_model_is_found_by_discovery() -> None:
    played = chat(dispatcher_of(), SMOL, OTHER, MODEL_MISSING, SMOL, chat_stream("Hi"))
    assert urls(played)[-1] == f"{B}/v1/chat/completions"


def test_error_is_that_of_only_server_with_model() -> None:
    with pytest.raises(ServerUnreachable, match=f"{A} for model 'smol'"):
        # B has listed its models, so discovery repeats for A alone.
        chat(dispatcher_of(), SMOL, OTHER, *[UNREACHABLE] * 3)


def test_error_is_raised_once_when_all_servers_are_unreachable() -> None:
    with pytest.raises(ServerUnreachable):
        chat(dispatcher_of(), SMOL, SMOL, UNREACHABLE, *[unreachable(B, "smol", "refused")] * 7)


def test_interrupted_stream_is_not_repeated() -> None:
    played, interrupted = Play(), [delta(content="Hi"), delta(reasoning="Hm")]
    steps = dispatcher_of().dispatch("/api/chat", {**HI, "stream": True})
    assert steps is not None
    with pytest.raises((ResponseError, ServerUnreachable)):
        played.run(steps, SMOL, SMOL, interrupted, *[UNREACHABLE] * 3)
    assert f"{B}/v1/chat/completions" not in urls(played)


@pytest.mark.parametrize("error", [[delta(content="Hi")], reply({"error": "boom"}, 500)])
def test_no_call_is_in_flight_after_error(error: Any) -> None:
    dispatcher = dispatcher_of()
    with pytest.raises(ResponseError):
        chat(dispatcher, SMOL, OTHER, error, OTHER)
    assert [server.in_flight for server in dispatcher.registry.servers] == [0, 0]


def test_no_call_is_in_flight_after_early_close() -> None:
    dispatcher = dispatcher_of()
    steps = dispatcher.dispatch("/api/chat", {**HI, "stream": True})
    assert steps is not None
    next(steps)
    for outcome in ([SMOL, OTHER], None):
        steps.send(outcome)
    assert [server.in_flight for server in dispatcher.registry.servers] == [1, 0]
    steps.close()
    assert [server.in_flight for server in dispatcher.registry.servers] == [0, 0]


def test_locate_yields_url_of_server_that_serves_model() -> None:
    assert play(dispatcher_of().locate("smol"), OTHER, SMOL).parts == [{"url": B}]


def test_discovery_stays_within_timeout_of_caller() -> None:
    dispatcher = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A, B)), StillClock())
    calls = [dispatcher.dispatch(path, HI, 0.7) for path in ("/api/chat", "/api/tags", "/api/ps")]
    calls.append(dispatcher.locate("smol", 0.7))
    for steps in calls:
        assert steps is not None
        step = next(steps)
        assert isinstance(step, SendAll)
        assert step.timeout == 0.7
        steps.close()


# Names


def test_model_map_translates_name_and_answer_keeps_requested_name() -> None:
    played = chat(dispatcher_of(vllm_model_map={"exaone": "smol"}), SMOL, OTHER, chat_stream("Hi"), model="EXAONE")
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
def test_unknown_model_raises_ollama_error_of_path(path: str, name: str, text: str, status: int) -> None:
    steps = dispatcher_of().dispatch(path, {"model": name})
    assert steps is not None
    with pytest.raises(ResponseError) as caught:
        play(steps, SMOL, OTHER)
    assert (caught.value.error, caught.value.status_code) == (text, status)


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize(("path", "status"), [("/api/chat", 400), ("/api/generate", 404)])
def test_empty_model_name_is_refused_without_request(path: str, name: str, status: int) -> None:
    steps = dispatcher_of().dispatch(path, {"model": name})
    assert steps is not None
    with pytest.raises(ResponseError) as caught:
        play(steps)
    assert caught.value.status_code == status


def test_model_not_served_notice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    dispatcher = dispatcher_of(vllm_model_map={"exaone": "org/Exaone"})
    with caplog.at_level(logging.WARNING, "ollama_compat"):
        for _ in range(2):
            with pytest.raises(ResponseError):
                chat(dispatcher, SMOL, OTHER, model="exaone")
    assert [record.getMessage() for record in caplog.records] == [
        f"no server serves 'org/Exaone', requested as 'exaone': {A} serves smol; {B} serves other"
    ]


@pytest.mark.parametrize(("length", "kept"), [(10, 1), (1_000_000, 0)])
def test_long_names_that_callers_make_up_are_not_kept(length: int, kept: int) -> None:
    dispatcher = Dispatcher(Settings(backend_mode="vllm"), StillClock())
    dispatcher._chain("/api/chat", "x" * length)
    assert len(dispatcher._chains) == kept
