"""The readiness check: a server is ready if it is healthy and serves its described models."""

from __future__ import annotations

import httpx
import pytest

from vllm_launch import ready
from vllm_launch.servers import Server

SERVER = Server(name="chat", model="org/model", port=8001)


def asked(answers, server=SERVER):
    """The result for a server with these answers: path -> response, exception, or function."""

    def answer(request):
        answer = answers[request.url.path]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    return ready.ask(server, httpx.Client(transport=httpx.MockTransport(answer)))


def models(*names):
    return httpx.Response(200, json={"data": [{"id": name} for name in names]})


OK = httpx.Response(200)


def test_server_is_ready_when_it_serves_its_model():
    assert asked({"/health": OK, "/v1/models": models("org/model", "other")}).ready


def test_server_is_unreachable_when_the_connection_fails():
    answer = asked({"/health": httpx.ConnectError("refused")})
    assert answer == ready.Answer("unreachable", "http://127.0.0.1:8001 does not answer: refused")


def test_server_is_unhealthy_when_health_returns_503():
    assert asked({"/health": httpx.Response(503)}) == ready.Answer("unhealthy", "GET /health answers 503")


def test_server_is_unexpected_when_it_serves_another_model():
    answer = asked({"/health": OK, "/v1/models": models("other")})
    assert answer.readiness == "unexpected-server"
    assert "serves other, not org/model" in answer.reason


@pytest.mark.parametrize(
    "page", [httpx.Response(200, text="<html>"), httpx.Response(404, json={}), httpx.Response(200, json=[1])]
)
def test_server_is_unexpected_when_it_is_not_vllm(page):
    answer = asked({"/health": OK, "/v1/models": page})
    assert answer.readiness == "unexpected-server"
    assert "is not vLLM" in answer.reason


def test_ask_sends_the_key(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    server = SERVER.model_copy(update={"api_key_file": tmp_path / "key"})

    def guarded(request):
        return models("org/model") if request.headers.get("authorization") == "Bearer secret" else httpx.Response(401)

    assert asked({"/health": OK, "/v1/models": guarded}, server).ready
    answer = asked({"/health": OK, "/v1/models": guarded})
    assert (answer.readiness, "requires a key" in answer.reason) == ("unexpected-server", True)


def test_missing_key_file_makes_the_server_unhealthy(tmp_path):
    answer = asked({}, SERVER.model_copy(update={"api_key_file": tmp_path / "gone"}))
    assert answer.readiness == "unhealthy"
    assert answer.reason == (
        f"The api_key_file of the vLLM server 'chat', {tmp_path / 'gone'}, cannot be read: No such file or directory"
    )
