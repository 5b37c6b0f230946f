"""Ctrl-C, wherever it comes: the connection and the place of the call go back, and the client goes on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ollama_compat as ollama

from .network import CHAT, END, said
from .sockets import HOLD, PATIENCE_S, Asked, Pieces, Server, serves, streamed


def echo(asked: Asked) -> Pieces:
    """A chat is answered with what it says; where that is "hold", each next piece of the answer has to be let."""
    text = asked.content["messages"][-1]["content"]
    return streamed(said(text), HOLD, said(text), HOLD, END) if text == "hold" else streamed(said(text), END)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"/v1/models": serves("smol"), CHAT: echo}) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(
        backend_mode="vllm", vllm_urls=server.url, vllm_max_concurrent=1, trust_env=False, timeout=20
    ) as client:
        yield client


def chat(text: str, **changes: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [{"role": "user", "content": text}], **changes}


@contextmanager
def interrupted(when: Callable[[], None], then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ctrl-C comes as soon as `when` returns, which has to wait for what is done here, and ends it.

    A signal that comes just before a read does not end the read: what `then` does has to.
    """
    here = threading.get_ident()

    def interrupt() -> None:
        when()
        signal.pthread_kill(here, signal.SIGINT)
        then()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


def waits(client: ollama.Client) -> None:
    """Return when a call waits for a place."""
    until = time.monotonic() + PATIENCE_S
    while client.stats()["totals"]["waiting"] == 0 and time.monotonic() < until:
        time.sleep(0.001)


def goes_on(client: ollama.Client) -> bool:
    """Whether the only place is free again: a call is answered."""
    return bool(client.chat(**chat("again")).message.content == "again")


def test_a_stream_that_is_interrupted_is_closed_at_the_server_and_gives_its_place_back(
    server: Server, client: ollama.Client
) -> None:
    with interrupted(lambda: server.until(lambda: server.in_flight == 1), lambda: server.let(1)):
        for _ in client.chat(**chat("hold", stream=True)):
            pass
    server.until(lambda: server.left == 1)
    assert goes_on(client)
    counted = client.stats()["totals"]
    assert (counted["calls"], counted["cancelled"], counted["in_flight"]) == (2, 1, 0)


def test_a_plain_call_that_is_interrupted_is_closed_at_the_server_and_gives_its_place_back(
    server: Server, client: ollama.Client
) -> None:
    with interrupted(lambda: server.until(lambda: server.in_flight == 1), lambda: server.let(1)):
        client.chat(**chat("hold"))
    server.until(lambda: server.left == 1)
    assert goes_on(client)
    assert client.stats()["totals"]["cancelled"] == 1


def test_a_call_that_is_interrupted_while_it_waits_leaves_the_queue(server: Server, client: ollama.Client) -> None:
    stream = client.chat(**chat("hold", stream=True))
    next(stream)
    with interrupted(lambda: waits(client)):  # if the signal comes just before the wait, the wait ends by its timeout
        client.chat(**chat("never asked"))
    assert client.stats()["totals"]["waiting"] == 0
    stream.close()
    assert goes_on(client)
    assert [asked.content["messages"][-1]["content"] for asked in server.posts(CHAT)] == ["hold", "again"]
