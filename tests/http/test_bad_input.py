"""For any reply of a server, the caller gets the complete answer or one clear error that names the server."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError
from ollama_compat.steps import Request
from ollama_compat.transport.driver import BodyReader

from .caller import Caller
from .network import CHAT, END, RECORDED, URL, Answer, Network, chat_reply, content_event, document, event, stream

ARGUMENTS: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
CALLS = {
    "chat": (CHAT, ARGUMENTS),
    "generate": (CHAT, {"model": "smol", "prompt": "hi"}),
    "raw": ("/v1/completions", {"model": "smol", "prompt": "hi", "raw": True}),
    "embed": ("/v1/embeddings", {"model": "smol", "input": "hi"}),
    "embeddings": ("/v1/embeddings", {"model": "smol", "prompt": "hi"}),
    "systemone": (
        "/v1/systemone",
        {"model": "smol", "state": "s", "questions": {"q": {"type": "noul", "instructions": "?"}}},
    ),
}
HTML = b"<html><body>Welcome to <b>nginx</b>!</body></html>"

every_call = pytest.mark.parametrize("name", CALLS)


def error_of(caller: Caller, name: str) -> ResponseError:
    """Returns the error of a call."""
    method = "generate" if name == "raw" else name
    with pytest.raises(ResponseError) as caught:
        getattr(caller, method)(**CALLS[name][1])
    return caught.value


# Invalid replies


@every_call
@pytest.mark.parametrize(
    "body",
    [HTML, b"", b'{"choices": [{"del', b"[]", b"null", b'"text"', b"42", b'{"data": 1}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda body: repr(body[:12]),
)
def test_malformed_success_reply_raises_error_that_names_the_server(
    caller: Caller, network: Network, name: str, body: bytes
) -> None:
    network.on(URL + CALLS[name][0], Answer(200, body))
    assert URL in error_of(caller, name).error


@every_call
@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (502, HTML, "nginx"),
        (500, b"", "empty reply"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (503, b'{"error": {"message": "engine dead", "code": 503}}', "engine dead"),
        (429, b'{"message": "slow down", "object": "error"}', "slow down"),
        (422, b'{"detail": [{"msg": "field required"}]}', "field required"),
        (500, b"[" * 100_000, ""),
        (500, b'{"error": {"message": null}}', "empty reply"),
        (500, b'{"error": null}', ""),
        (500, b"\xff\xfe", ""),
    ],
    ids=lambda value: repr(value)[:16],
)
def test_error_reply_keeps_its_status_and_names_the_server(
    caller: Caller, network: Network, name: str, status: int, body: bytes, text: str
) -> None:
    network.on(URL + CALLS[name][0], Answer(status, body))
    error = error_of(caller, name)
    assert error.status_code == status
    assert URL in error.error
    assert text in error.error


def test_long_error_body_is_shortened(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, Answer(502, HTML * 1000))
    assert len(error_of(caller, "chat").error) < 500


@pytest.mark.parametrize("status", [401, 403])
@every_call
def test_wrong_key_error_names_the_variable(caller: Caller, network: Network, name: str, status: int) -> None:
    network.on(URL + CALLS[name][0], document({"error": "Unauthorized"}, status))
    error = error_of(caller, name)
    assert error.status_code == status
    assert error.error == f"Unauthorized ({URL} requires a valid API key: check VLLM_API_KEY)"


# Streams


def test_recorded_stream_gives_the_same_answer_wherever_it_is_split(caller: Caller, network: Network) -> None:
    # tests/unit/mapping/test_vllm_schema.py splits at every byte; a call for each would take seconds.
    bytewise = [bytes([byte]) for byte in RECORDED]
    splits = [[RECORDED[:at], RECORDED[at:]] for at in range(0, len(RECORDED), 5)]
    network.on(URL + CHAT, *(stream(*pieces) for pieces in [bytewise, *splits]))
    answers = {caller.chat(**ARGUMENTS).message.content for _ in [bytewise, *splits]}
    assert answers == {"The capital of France is Paris"}


@pytest.mark.parametrize("stray", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\ufeff", "한국어", "👩‍👩‍👧"])
def test_only_a_line_feed_ends_a_line(caller: Caller, network: Network, stray: str) -> None:
    whole = content_event(f"a{stray}b") + END
    network.on(URL + CHAT, *(stream(whole[:at], whole[at:]) for at in range(len(content_event(stray)))))
    assert {caller.chat(**ARGUMENTS).message.content for _ in content_event(stray)} == {f"a{stray}b"}


def test_line_of_sixteen_megabytes_is_read(caller: Caller, network: Network) -> None:
    long = content_event("x" * 16_000_000)
    network.on(URL + CHAT, stream(*(long[at : at + 65536] for at in range(0, len(long), 65536)), END))
    assert len(caller.chat(**ARGUMENTS).message.content) == 16_000_000


def test_line_beyond_the_size_limit_raises_error(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, stream(b"data: ", *[b"x" * 1_000_000] * 70))
    assert f"{URL} sent a malformed reply: a line of more than" in error_of(caller, "chat").error


def test_stream_of_tiny_chunks_uses_little_memory(
    caller: Caller, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = 50_000
    monkeypatch.setattr("ollama_compat.transport.sse.MAX_EVENT_BYTES", 2 * pieces - 1)
    network.on(URL + CHAT, stream(*(bytes((120, number % 100 + 20)) for number in range(pieces))))
    caller.list()
    tracemalloc.start()
    with pytest.raises(ResponseError, match="a line of more than"):
        caller.chat("smol", [{"role": "user", "content": "hi"}])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * pieces, "a list of them would take 70 bytes each"


def test_body_of_tiny_chunks_uses_little_memory() -> None:
    pieces = 50_000
    body = BodyReader(httpx.Response(200), Request("GET", URL, "/v1/embeddings"))
    tracemalloc.start()
    for number in range(pieces):
        body.add(bytes((120, number % 256)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * pieces


@pytest.mark.parametrize(
    ("retry_after", "retried"),
    [
        ("0", True),
        ("Wed, 01 Jan 2020 00:00:00 GMT", True),
        ("Wed, 01 Jan 2020 00:00:00 -0000", True),
        ("Mon, 01 Jan 0001 00:00:00 GMT", True),
        ("Mon, 01 Jan 0001 00:00:00 +2359", True),
        ("Fri, 31 Dec 99999999999999 23:59:59 GMT", True),
        ("soon", True),
        ("-5", True),
        ("1" * 4000, False),
        ("Fri, 31 Dec 9999 23:59:59 GMT", False),
    ],
)
def test_any_retry_after_header_leads_to_an_answer_or_the_error(
    caller: Caller, network: Network, retry_after: str, retried: bool
) -> None:
    network.on(URL + CHAT, Answer(429, b"too much to do", retry_after=retry_after), chat_reply("Hello"))
    if retried:
        assert caller.chat("smol", [{"role": "user", "content": "hi"}]).message.content == "Hello"
    else:
        with pytest.raises(ResponseError, match="too much to do"):
            caller.chat("smol", [{"role": "user", "content": "hi"}])


def test_stream_comments_and_other_fields_are_skipped(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, stream(b": ping\n\nevent: x\nid: 1\nretry: 5\n", content_event("Hi"), b"\n\n", END))
    assert caller.chat(**ARGUMENTS).message.content == "Hi"


def test_last_line_may_lack_its_line_feed(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, stream(content_event("Hi"), END.removesuffix(b"\n\n")))
    assert caller.chat(**ARGUMENTS).message.content == "Hi"


def test_stream_may_end_without_done(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, stream(content_event("Hi"), END.removesuffix(b"data: [DONE]\n\n")))
    assert caller.chat(**ARGUMENTS).message.content == "Hi"


def test_stream_is_read_past_done_so_that_its_connection_is_reused(caller: Caller, network: Network) -> None:
    caller.chat(**ARGUMENTS)
    assert network.streams[-1].read_to_its_end


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((content_event("Hi"),), "unexpected EOF"),
        ((content_event("Hi"), b"data: [DONE]\n\n"), "unexpected EOF"),
        ((content_event("Hi"), b'data: {"choices": [{"del\n\n'), "malformed"),
        ((content_event("Hi"), b'data: {"choices": [{"del'), "malformed"),
        ((content_event("Hi"), b"data: hello\n\n"), "malformed"),
        ((content_event("Hi"), b"data: 5\n\n"), "malformed"),
        ((content_event("Hi"), b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'), "malformed"),
        ((content_event("Hi"), b"data: \xff\n\n"), "malformed"),
        ((content_event("Hi"), event({"error": {"message": "CUDA out of memory", "code": 500}})), "CUDA out of memory"),
        ((content_event("Hi"), event({"error": "CUDA out of memory"})), "CUDA out of memory"),
        ((content_event("Hi"), event({"choices": [{"delta": {}, "finish_reason": "abort"}]})), "abort"),
        ((content_event("Hi"), httpx.RemoteProtocolError("peer closed connection")), "peer closed connection"),
        ((content_event("Hi"), httpx.ReadError("connection reset by peer")), "connection reset by peer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_follows_the_parts_that_were_received(
    caller: Caller, network: Network, pieces: tuple[bytes | Exception, ...], text: str
) -> None:
    network.on(URL + CHAT, stream(*pieces))
    parts, error = caller.until_error(caller.open("chat", **ARGUMENTS))
    assert [part.message.content for part in parts] == ["Hi"]
    assert isinstance(error, ResponseError)
    assert URL in error.error
    assert text in error.error


@pytest.mark.parametrize(("code", "status"), [(400, 400), (503, 503), ("x", 500), (None, 500)])
def test_error_event_has_the_status_of_its_code(caller: Caller, network: Network, code: Any, status: int) -> None:
    network.on(URL + CHAT, stream(content_event("Hi"), event({"error": {"message": "no", "code": code}})))
    assert error_of(caller, "chat").status_code == status


def test_compressed_reply_is_rejected_before_decoding(caller: Caller, network: Network) -> None:
    """A few compressed bytes could fill the memory, and the client requests none."""
    network.on(URL + CHAT, Answer(200, gzip.compress(RECORDED), content_encoding="gzip"))
    assert "compressed (gzip), which the request does not allow" in error_of(caller, "chat").error
    assert {request.headers["accept-encoding"] for request in network.requests} == {"identity"}


# Model lists


@pytest.mark.parametrize("body", [HTML, b"", b"[]", b'{"data": null}', b'{"data": [{"id": 1}]}', b"{"])
def test_malformed_model_list_raises_error_that_names_the_server(caller: Caller, network: Network, body: bytes) -> None:
    network.on(f"{URL}/v1/models", Answer(200, body))
    assert URL in error_of(caller, "chat").error


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b'{"detail":"Not Found"}', "does not answer like a vLLM server"),
        (404, HTML, "does not answer like a vLLM server"),
        (500, b"", "is unhealthy"),
        (503, HTML, "is still loading, or its proxy cannot reach it"),
    ],
)
def test_missing_model_list_error_says_not_vllm_or_not_ready(
    caller: Caller, network: Network, status: int, body: bytes, text: str
) -> None:
    network.on(f"{URL}/v1/models", Answer(status, body))
    error = error_of(caller, "chat").error
    assert error.startswith(f"{URL} {text}: GET {URL}/v1/models returned status {status}")
    assert "VLLM_URLS" in error


@pytest.mark.parametrize("status", [401, 403])
def test_model_list_that_requires_a_key_names_the_variable(caller: Caller, network: Network, status: int) -> None:
    network.on(f"{URL}/v1/models", document({"error": "Unauthorized"}, status))
    error = error_of(caller, "chat")
    assert error.status_code == status
    assert error.error == f"Unauthorized ({URL} requires a valid API key: check VLLM_API_KEY)"


@pytest.mark.parametrize("method", ["list", "ps"])
@pytest.mark.parametrize("created", [0, 1795488452, 1795488452000, -1, 10**18])
def test_model_with_any_creation_time_is_listed(caller: Caller, network: Network, method: str, created: int) -> None:
    network.on(f"{URL}/v1/models", document({"data": [{"id": "smol", "created": created}]}))
    assert [model.model for model in getattr(caller, method)().models] == ["smol:latest"]


# Arguments of the caller


def test_largest_integer_is_sent(caller: Caller, network: Network) -> None:
    caller.chat(**ARGUMENTS, options={"seed": 2**63 - 1})
    assert network.body["seed"] == 2**63 - 1


def test_unsupported_stream_raises_error_when_it_is_read(caller: Caller) -> None:
    parts, error = caller.until_error(caller.open("push", model="smol"))
    assert parts == []
    assert isinstance(error, ResponseError)
    assert error.status_code == 501


def test_client_works_after_an_error(connect: Callable[..., Caller], network: Network) -> None:
    caller = connect()
    network.on(URL + CHAT, Answer(500), stream(b"data: x\n\n"), chat_reply("Hello"))
    error_of(caller, "chat")
    error_of(caller, "chat")
    assert caller.chat(**ARGUMENTS).message.content == "Hello"
