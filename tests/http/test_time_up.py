"""Requests that have a time of their own: it is all the time they have, and nothing is left when it is up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, cycle
from typing import Any

import pytest

from tests.faults.leaks import Leaks

from .caller import Caller
from .network import CHAT, END, said
from .sockets import HOLD, Asked, Pause, Pieces, Server, serves, streamed

Connect = Callable[..., Caller]
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
WELL = {"/v1/models": serves("smol"), CHAT: streamed(said("Hello"), END)}
LIST = "/v1/models"
LONG_S = 30.0
"""A time that no test comes near (seconds)."""
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"


def dripping(head: bytes, piece: bytes) -> Callable[[Asked], Pieces]:
    """A reply that comes without an end, each of its pieces in good time."""
    return lambda _: chain([head], cycle((piece, Pause(0.02))))


UNENDING: dict[str, Callable[[Asked], Pieces]] = {
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
def test_a_reply_without_an_end_is_hung_up_on(
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
        server.until(lambda: server.left == 1)
    assert server.connections == 1


def test_a_server_that_takes_connections_and_says_nothing_is_told_as_such(to: Connect, server: Server) -> None:
    server.answers[LIST] = (HOLD,)
    with pytest.raises(ConnectionError) as caught:
        to(server.url, timeout=1).chat(**HI)
    assert str(caught.value).startswith(
        f"The vLLM server at {server.url}, wanted for model 'smol', accepted the connection but did not answer within 1"
    )


def test_a_connection_that_was_hung_up_on_is_not_used_again(to: Connect, server: Server) -> None:
    caller = to(server.url, timeout=0.2)
    server.answers[LIST] = UNENDING["headers"]
    with pytest.raises(ConnectionError):
        caller.list()
    server.answers[LIST] = serves("smol")
    caller.client._client.timeout = LONG_S
    assert caller.chat(**HI).message.content == "Hello"


@pytest.mark.parametrize("what", ["nothing", "headers"])
def test_a_call_goes_on_with_who_has_the_model(
    to: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("ollama_compat.servers.registry.GRACE_S", 0.1)
    with Server({LIST: UNENDING[what]}) as silent:
        caller = to(silent.url, server.url, timeout=LONG_S)
        assert caller.chat(**HI).message.content == "Hello"
        silent.until(lambda: silent.left == 1)


def test_servers_are_asked_side_by_side(to: Connect, server: Server) -> None:
    with Server({LIST: (HOLD, *serves("other"))}) as slow:

        def when_the_other_was_asked(_: Asked) -> Pieces:
            slow.until(lambda: len(slow.asked) == 1)
            slow.let(1)
            return serves("smol")

        server.answers[LIST] = when_the_other_was_asked
        assert len(to(server.url, slow.url, timeout=LONG_S).list().models) == 2
