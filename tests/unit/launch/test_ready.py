"""A server is ready when it is healthy and serves what it is described to."""

from __future__ import annotations

import httpx
import pytest

from vllm_launch import ready
from vllm_launch.servers import Server

SERVER = Server(name="chat", model="org/model", port=8001)


def asked(answers, server=SERVER):
    """How the server is that answers so: path -> status and body, or an exception."""

    def answer(request):
        said = answers[request.url.path]
        if isinstance(said, Exception):
            raise said
        return said(request) if callable(said) else said

    return ready.ask(server, httpx.Client(transport=httpx.MockTransport(answer)))


def models(*names):
    return httpx.Response(200, json={"data": [{"id": name} for name in names]})


OK = httpx.Response(200)


def test_ready():
    assert asked({"/health": OK, "/v1/models": models("org/model", "other")}).ready


def test_nobody_answers():
    answer = asked({"/health": httpx.ConnectError("refused")})
    assert answer == ready.Answer("unreachable", "http://127.0.0.1:8001 does not answer: refused")


def test_a_dead_engine():
    assert asked({"/health": httpx.Response(503)}) == ready.Answer("unhealthy", "GET /health answers 503")


def test_another_model_at_that_address():
    answer = asked({"/health": OK, "/v1/models": models("other")})
    assert answer.readiness == "unexpected-server"
    assert "serves other, not org/model" in answer.reason


@pytest.mark.parametrize(
    "page", [httpx.Response(200, text="<html>"), httpx.Response(404, json={}), httpx.Response(200, json=[1])]
)
def test_something_else_at_that_address(page):
    answer = asked({"/health": OK, "/v1/models": page})
    assert answer.readiness == "unexpected-server"
    assert "is no vLLM" in answer.reason


def test_the_key_is_sent(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    server = SERVER.model_copy(update={"api_key_file": tmp_path / "key"})

    def guarded(request):
        return models("org/model") if request.headers.get("authorization") == "Bearer secret" else httpx.Response(401)

    assert asked({"/health": OK, "/v1/models": guarded}, server).ready
    answer = asked({"/health": OK, "/v1/models": guarded})
    assert (answer.readiness, "requires a key" in answer.reason) == ("unexpected-server", True)


def test_a_key_file_that_is_gone_is_a_reason_and_no_crash(tmp_path):
    answer = asked({}, SERVER.model_copy(update={"api_key_file": tmp_path / "gone"}))
    assert answer.readiness == "unhealthy"
    assert answer.reason == (
        f"The api_key_file of the vLLM server 'chat', {tmp_path / 'gone'}, can't be read: No such file or directory"
    )
