"""Secrets stay out of errors and logs, hostile replies are harmless, and each header reaches only its own host."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import traceback
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import ollama_compat as ollama
from ollama_compat import ResponseError

from .caller import Caller
from .network import CHAT, END, URL, Network, content_event
from .sockets import Pieces, Received, Server, serves, streamed, whole

Connect = Callable[..., Caller]
KEY, OLLAMAS_KEY = "sk-vllm-0123456789", "sk-ollama-0123456789"
PROVIDERS_KEY, THIRDS_KEY = "sk-other-0123456789", "sk-third-0123456789"
PROMPT, ANSWER = "Kim Minsu has a fever", "He should see a doctor"
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": PROMPT}]}
EMBED = "/v1/embeddings"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"/v1/models": serves("smol"), CHAT: streamed(content_event(ANSWER), END)}) as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """A server that is not in VLLM_URLS."""
    with Server({"/v1/models": serves("smol"), CHAT: streamed(content_event("other"), END)}) as server:
        yield server


@pytest.fixture
def third() -> Iterator[Server]:
    """Another one."""
    with Server({CHAT: streamed(content_event("third"), END)}) as server:
        yield server


@pytest.fixture
def uninvolved() -> Iterator[Server]:
    """A server that must receive no request."""
    with Server({CHAT: streamed(content_event("uninvolved"), END)}) as server:
        yield server


@pytest.fixture
def over_sockets(connect: Connect, server: Server) -> Connect:
    """`connect`, to the server."""
    return lambda **settings: connect(**{"vllm_urls": server.url, "transport": None, "trust_env": False, **settings})


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that the package logs, at any level."""
    caplog.set_level(logging.DEBUG, "ollama_compat")
    return caplog


def failed(caller: Caller, method: str = "chat", arguments: dict[str, Any] | None = None) -> ResponseError:
    with pytest.raises(ResponseError) as caught:
        getattr(caller, method)(**(arguments or HI))
    return caught.value


def all_output(error: Exception, caller: Caller, logged: pytest.LogCaptureFixture) -> str:
    """All text that a person may read: the error, logs, settings, stats."""
    records = " ".join(str(vars(record)) for record in logged.records)
    settings = f"{caller.client.settings!r} {caller.client.settings}"
    stats = json.dumps(caller.client.stats())
    return " ".join([*traceback.format_exception(error), repr(error), logged.text, records, settings, stats])


# Keys


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "500 Internal Server Error", "503 Busy"])
@pytest.mark.parametrize("path", ["/v1/models", CHAT])
@pytest.mark.parametrize("as_json", [True, False])
def test_key_that_a_server_returns_is_hidden(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture, status: str, path: str, as_json: bool
) -> None:
    def echo(request: Received) -> Pieces:
        text = f"not with {request.headers['authorization']}"
        return whole({"error": {"message": text}} if as_json else text.encode(), status)

    server.answers[path] = echo
    caller = over_sockets(vllm_api_key=KEY)
    error = failed(caller)
    assert "not with Bearer [key]" in str(error)
    assert KEY not in all_output(error, caller, logged)


def test_key_that_a_server_returns_in_a_stream_is_hidden(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture
) -> None:
    event = {"error": {"message": f"not with {KEY}", "code": 500}}
    server.answers[CHAT] = streamed(b"data: " + json.dumps(event).encode() + b"\n\n")
    caller = over_sockets(vllm_api_key=KEY)
    error = failed(caller)
    assert "not with" in str(error)
    assert KEY not in all_output(error, caller, logged)


def test_key_that_a_server_returns_as_a_model_name_is_hidden(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture
) -> None:
    server.answers["/v1/models"] = serves("smol", f"for Bearer {KEY}")
    caller = over_sockets(vllm_api_key=KEY)
    assert [model.model for model in caller.list().models] == ["smol:latest", "for Bearer [key]:latest"]
    error = failed(caller, "chat", {**HI, "model": "nope"})
    assert "serves smol, for Bearer [key]" in logged.text
    assert KEY not in all_output(error, caller, logged)


def test_key_of_ollama_is_not_sent_to_vllm(
    over_sockets: Connect, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", OLLAMAS_KEY)
    over_sockets().chat(**HI)
    over_sockets(vllm_api_key=KEY).chat(**HI)
    assert [request.headers.get("authorization") for request in server.posts(CHAT)] == [None, f"Bearer {KEY}"]
    assert OLLAMAS_KEY not in str(server.requests)


# Providers


@pytest.fixture
def with_fallbacks(
    connect: Connect, server: Server, other: Server, third: Server, monkeypatch: pytest.MonkeyPatch
) -> Connect:
    """`connect` to the server, with two fallback providers: `other`, then `third`."""
    monkeypatch.setenv("OLLAMA_API_KEY", OLLAMAS_KEY)
    monkeypatch.setenv("OTHER_KEY", PROVIDERS_KEY)
    monkeypatch.setenv("THIRD_KEY", THIRDS_KEY)
    server.answers[CHAT] = whole({"error": {"message": "broken", "code": 500}}, "500 Internal Server Error")
    settings = ollama.Settings(
        backend_mode="vllm",
        vllm_urls=(server.url,),
        vllm_api_key=KEY,
        vllm_failover={"smol": ("other:model", "third:model")},
        providers={
            "other": ollama.Provider(base_url=other.url, api_key_env="OTHER_KEY"),
            "third": ollama.Provider(base_url=third.url, api_key_env="THIRD_KEY"),
        },
    )
    return lambda **given: connect(settings=settings, transport=None, trust_env=False, **given)


@pytest.mark.parametrize("auth", [None, ("user", "password")])
def test_provider_receives_its_own_key_and_no_header_of_the_client(
    with_fallbacks: Connect, server: Server, other: Server, auth: Any
) -> None:
    caller = with_fallbacks(headers={"X-Tenant": "mine"}, cookies={"session": "mine"}, auth=auth)
    assert caller.chat(**HI).message.content == "other"
    (request,) = server.posts(CHAT)
    assert (request.headers["x-tenant"], request.headers["cookie"]) == ("mine", "session=mine")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    (request,) = other.requests
    assert request.headers["authorization"] == f"Bearer {PROVIDERS_KEY}"
    assert set(request.headers) <= {"host", "content-type", "content-length", "authorization", "accept-encoding", ""}
    assert PROVIDERS_KEY not in str(server.requests)


@pytest.mark.parametrize("streamed_", [True, False])
def test_each_key_is_sent_to_its_own_host_only(
    with_fallbacks: Connect, server: Server, other: Server, third: Server, streamed_: bool
) -> None:
    other.answers[CHAT] = whole({"error": {"message": "no", "code": 401}}, "401 Unauthorized")
    answer = with_fallbacks().chat(**HI, stream=streamed_)
    assert (answer[0] if streamed_ else answer).message.content == "third"
    keys = (KEY, PROVIDERS_KEY, THIRDS_KEY)
    seen = [{key for key in (*keys, OLLAMAS_KEY) if key in str(host.requests)} for host in (server, other, third)]
    assert seen == [{key} for key in keys]


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_redirect_of_a_provider_is_not_followed(
    with_fallbacks: Connect, other: Server, third: Server, uninvolved: Server, status: str
) -> None:
    for host in (other, third):
        host.answers[CHAT] = whole(b"", status, Location=uninvolved.url + CHAT)
    error = failed(with_fallbacks(follow_redirects=True))
    assert f"{other.url}{CHAT} redirects to {uninvolved.url}{CHAT}" in str(error.__notes__)
    assert uninvolved.requests == []


def test_key_that_a_provider_returns_is_hidden(
    with_fallbacks: Connect, other: Server, third: Server, logged: pytest.LogCaptureFixture
) -> None:
    other.answers[CHAT] = lambda request: whole(f"bad {request.headers['authorization']}".encode(), "500 Broken")
    event = {"error": {"message": f"not with {THIRDS_KEY}", "code": 401}}
    third.answers[CHAT] = streamed(b"data: " + json.dumps(event).encode() + b"\n\n")
    caller = with_fallbacks()
    error = failed(caller)
    assert "bad Bearer [key]" in str(error.__notes__)
    assert "not with [key] (provider third" in str(error.__notes__)
    output = all_output(error, caller, logged)
    assert [key for key in (PROVIDERS_KEY, THIRDS_KEY) if key in output] == []


# Prompts and answers

CUT = b'data: {"choices": [{"delta": {"content": "' + ANSWER.encode() + b'"}}\n\n'
OF_ANOTHER_TYPE = b'data: {"choices": [{"delta": {"content": ["' + ANSWER.encode() + b'"]}}]}\n\n'
QUOTED = [{"type": "string_type", "loc": ["body", "messages"], "msg": "Input should be a string", "input": PROMPT}]
BAD_GATEWAY = b"<html><body>502 Bad Gateway</body></html>"


@pytest.mark.parametrize(
    "answer",
    [
        streamed(CUT),
        streamed(OF_ANOTHER_TYPE),
        streamed(content_event(ANSWER)),
        whole(ANSWER.encode(), Content_Type="text/plain"),
        whole({"choices": [{"message": {"content": ANSWER}}]}, Content_Type="application/json"),
        whole({"detail": QUOTED}, "422 Unprocessable Entity"),
        whole({"error": {"message": f"1 validation error: {QUOTED}", "code": 400}}, "400 Bad Request"),
        whole(BAD_GATEWAY, "502 Bad Gateway", Content_Type="text/html"),
        whole(BAD_GATEWAY, Content_Type="text/html"),
    ],
    ids=range(9),
)
def test_prompt_and_answer_appear_in_no_error_or_log(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture, answer: Pieces
) -> None:
    server.answers[CHAT] = answer
    caller = over_sockets()
    error = failed(caller)
    output = all_output(error, caller, logged)
    assert server.url in str(error)
    assert PROMPT not in output
    assert ANSWER not in output


@pytest.mark.parametrize("answer", [whole({"data": ANSWER}), whole(ANSWER.encode()), whole({"data": [ANSWER]})])
def test_embedded_text_appears_in_no_error_or_log(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture, answer: Pieces
) -> None:
    server.answers[EMBED] = answer
    caller = over_sockets()
    error = failed(caller, "embed", {"model": "smol", "input": PROMPT})
    output = all_output(error, caller, logged)
    assert PROMPT not in output
    assert ANSWER not in output


def test_retry_logs_the_reason_and_not_the_prompt(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture
) -> None:
    server.answers[CHAT] = whole({"detail": QUOTED}, "503 Service Unavailable")
    caller = over_sockets()
    output = all_output(failed(caller), caller, logged)
    assert "retry" in logged.text
    assert "Input should be a string" in logged.text
    assert PROMPT not in output


# Hostile replies


@pytest.mark.parametrize("path", ["/v1/models", CHAT])
@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_redirects_are_not_followed(
    over_sockets: Connect, server: Server, other: Server, path: str, status: str
) -> None:
    server.answers[path] = whole(b"", status, Location=other.url + path)
    error = failed(over_sockets(vllm_api_key=KEY, follow_redirects=True))
    assert f"{server.url}{path} redirects to {other.url}{path}" in str(error)
    assert other.requests == []


def test_endless_line_raises_error_and_closes_the_connection(
    over_sockets: Connect, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_compat.transport.sse.MAX_EVENT_BYTES", 100_000)
    head, *_ = streamed()
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    server.answers[CHAT] = lambda _: chain([head, b"6\r\ndata: \r\n"], repeat(chunk))
    assert "a line of more than 100000 bytes" in str(failed(over_sockets()))
    server.until(lambda: server.disconnects == 1)


@pytest.mark.parametrize(("status", "most"), [("200 OK", "MAX_REPLY_BYTES"), ("500 Broken", "MAX_ERROR_BYTES")])
def test_endless_reply_raises_error_and_closes_the_connection(
    over_sockets: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, status: str, most: str
) -> None:
    monkeypatch.setattr(f"ollama_compat.transport.driver.{most}", 100_000)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode()
    server.answers[EMBED] = lambda _: chain([head], repeat(b"x" * 10_000))
    error = failed(over_sockets(), "embed", {"model": "smol", "input": PROMPT})
    assert "it is longer than 100000 bytes" in str(error)
    server.until(lambda: server.disconnects == 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize(("path", "method"), [(CHAT, "chat"), (EMBED, "embed")])
def test_compressed_replies_are_rejected(
    over_sockets: Connect, server: Server, encoding: str, path: str, method: str
) -> None:
    server.answers[path] = whole(b"\x00" * 100, Content_Encoding=encoding)
    arguments = HI if method == "chat" else {"model": "smol", "input": PROMPT}
    assert f"it is compressed ({encoding})" in str(failed(over_sockets(), method, arguments))
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


@pytest.mark.parametrize("as_json", [True, False])
def test_control_characters_of_a_server_message_are_removed(
    over_sockets: Connect, server: Server, logged: pytest.LogCaptureFixture, as_json: bool
) -> None:
    text = "wrong \x1b[2J\x1b]0;owned\x07 \x9b31m \x00\x08 \u202egnp"
    server.answers[CHAT] = whole({"error": {"message": text}} if as_json else text.encode(), "503 Unavailable")
    error = failed(over_sockets())
    assert "wrong" in str(error)
    assert "wrong" in logged.text
    assert (str(error) + logged.text).replace("\n", "").isprintable()


def test_request_that_cannot_be_sent_raises_400_without_the_key(
    connect: Connect, network: Network, logged: pytest.LogCaptureFixture
) -> None:
    network.on(URL + CHAT, httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"))
    caller = connect(vllm_api_key=KEY)
    error = failed(caller)
    assert (error.status_code, KEY in all_output(error, caller, logged)) == (400, False)
    assert f"the request to {URL} was not sent" in str(error)
    assert len([url for url in network.urls if url.endswith(CHAT)]) == 1, "it is not tried again"
    assert caller.client.stats()["models"]["smol"]["chat"]["errors"] == {"refused": 1}


# openai()


def test_openai_client_follows_no_redirect(over_sockets: Connect, server: Server, uninvolved: Server) -> None:
    location = uninvolved.url.replace("127.0.0.1", "localhost") + CHAT
    server.answers[CHAT] = whole(b"", "307 Temporary Redirect", Location=location)
    caller = over_sockets(vllm_api_key=KEY, headers={"X-Api-Key": PROVIDERS_KEY})
    sdk = caller.openai("smol")
    with pytest.raises(openai.APIStatusError) as caught:
        caller.wait_for(sdk.chat.completions.create(model="smol", messages=HI["messages"]))
    caller.finish(sdk)
    assert caught.value.status_code == 307
    assert uninvolved.requests == []


def test_openai_client_requests_uncompressed_replies(over_sockets: Connect, server: Server) -> None:
    server.answers[CHAT] = whole({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []})
    caller = over_sockets()
    sdk = caller.openai("smol")
    caller.wait_for(sdk.chat.completions.create(model="smol", messages=HI["messages"]))
    caller.finish(sdk)
    (request,) = server.posts(CHAT)
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("keyword", ["verify", "cert", "trust_env"])
def test_openai_client_has_the_tls_and_proxy_arguments_of_the_client(
    over_sockets: Connect, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    made: list[dict[str, Any]] = []
    for name, kind in (("DefaultHttpxClient", httpx.Client), ("DefaultAsyncHttpxClient", httpx.AsyncClient)):
        monkeypatch.setattr(openai, name, lambda kind=kind, **given: made.append(given) or kind())
    given = {"verify": ssl.create_default_context(), "cert": None, "trust_env": False}
    caller = over_sockets(**given)
    caller.finish(caller.openai("smol"))
    assert made[0][keyword] is given[keyword]
    assert made[0]["follow_redirects"] is False


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path / "server.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    try:
        subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"no certificate can be made: {problem}")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_self_signed_certificate_is_rejected_unless_the_client_trusts_it(connect: Connect, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server({"/v1/models": serves("smol"), CHAT: streamed(content_event(ANSWER), END)}, context) as server:
        over_tls = {"vllm_urls": server.url, "transport": None, "trust_env": False}
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            connect(**over_tls).chat(**HI)
        assert server.requests == []
        trusting = ssl.create_default_context(cafile=f"{certificate}.crt")
        assert connect(**over_tls, verify=trusting).chat(**HI).message.content == ANSWER
