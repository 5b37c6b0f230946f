"""Requests with their own timeout: it covers the whole request, and no connection or thread remains after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, cycle
from typing import Any

import pytest

from tests.faults.leaks import Leaks

from .caller import Caller
from .network import CHAT, END, content_event
from .sockets import HOLD, Pause, Pieces, Received, Server, serves, streamed

Connect = Callable[..., Caller]
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
WELL = {"/v1/models": serves("smol"), CHAT: streamed(content_event("Hello"), END)}
LIST = "/v1/models"
LONG_S = 30.0
"""A timeout that no test reaches (seconds)."""
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"


def dripping(head: bytes, piece: bytes) -> Callable[[Received], Pieces]:
    """An endless reply whose pieces each arrive in time."""
    return lambda _: chain([head], cycle((piece, Pause(0.02))))


UNENDING: dict[str, Callable[[Received], Pieces]] = {
    "nothing": lambda _: (HOLD,),
    "the status": dripping(b"HTTP/1.1 20", b"0"),
    "headers": dripping(OK, b"X-More: x\r\n"),
    "early hints": dripping(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "the size of a chunk": dripping(OK + CHUNKED, b"0"),
    "a body": dripping(OK + CHUNKED, b"1\r\n \r\n"),
    "an error": dripping(b"HTTP/1.1 500 Broken\r\n" + CHUNKED, b"1\r\n \r\n"),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(WELL) as server:
        yield server


@pytest.fixture
def to(connect: Connect) -> Connect:
    """`connect` to servers at these URLs."""
    return lambda *urls, **settings: connect(vllm_urls=urls, transport=None, trust_env=False, **settings)


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("what", UNENDING)
def test_discovery_disconnects_when_a_reply_does_not_end(
    to: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, what: str, kept: bool
) -> None:
    caller = to(server.url)
    if kept:
        caller.list()
    monkeypatch.setattr("ollama_compat.servers.registry.DISCOVERY_TIMEOUT_S", 0.5)
    server.answers[LIST] = UNENDING[what]
    with Leaks():
        with pytest.raises(ConnectionError, match=r"within 0\.5 s"):
            caller.list()
        server.until(lambda: server.disconnects == 1)
    assert server.connections == 1


def test_error_says_that_the_server_accepted_the_connection_but_did_not_answer(to: Connect, server: Server) -> None:
    server.answers[LIST] = (HOLD,)
    with pytest.raises(ConnectionError) as caught:
        to(server.url, timeout=1).chat(**HI)
    assert str(caught.value).startswith(
        f"The vLLM server at {server.url} accepted the connection but did not answer within "
    )


def test_aborted_connection_is_not_reused(to: Connect, server: Server) -> None:
    caller = to(server.url, timeout=0.2)
    server.answers[LIST] = UNENDING["headers"]
    with pytest.raises(ConnectionError):
        caller.list()
    server.answers[LIST] = serves("smol")
    caller.client._client.timeout = LONG_S
    assert caller.chat(**HI).message.content == "Hello"


@pytest.mark.parametrize("what", ["nothing", "headers"])
def test_call_proceeds_with_the_server_that_has_the_model(
    to: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("ollama_compat.servers.registry.GRACE_S", 0.1)
    with Server({LIST: UNENDING[what]}) as silent:
        caller = to(silent.url, server.url, timeout=LONG_S)
        assert caller.chat(**HI).message.content == "Hello"
        silent.until(lambda: silent.disconnects == 1)


def test_discovery_requests_run_concurrently(to: Connect, server: Server) -> None:
    with Server({LIST: (HOLD, *serves("other"))}) as slow:

        def after_the_other_request(_: Received) -> Pieces:
            slow.until(lambda: len(slow.requests) == 1)
            slow.release(1)
            return serves("smol")

        server.answers[LIST] = after_the_other_request
        assert len(to(server.url, slow.url, timeout=LONG_S).list().models) == 2
