"""Ctrl-C at any point: the call releases its connection and its slot, and the client still works."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ollama_compat as ollama

from .network import CHAT, END, content_event
from .sockets import HOLD, PATIENCE_S, Pieces, Received, Server, serves, streamed


def echo(request: Received) -> Pieces:
    """Replies to a chat with its own text; after "hold", each next piece waits for `Server.release`."""
    text = request.content["messages"][-1]["content"]
    return (
        streamed(content_event(text), HOLD, content_event(text), HOLD, END)
        if text == "hold"
        else streamed(content_event(text), END)
    )


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
    """Sends SIGINT as soon as `when` returns; the block must be in its call by then, and the signal ends it.

    A signal just before a read does not end the read; `then` has to end it.
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


def until_one_waits(client: ollama.Client) -> None:
    """Returns when a call waits for a slot."""
    until = time.monotonic() + PATIENCE_S
    while client.stats()["totals"]["waiting"] == 0 and time.monotonic() < until:
        time.sleep(0.001)


def still_works(client: ollama.Client) -> bool:
    """Whether the only slot is free again: a call gets its answer."""
    return bool(client.chat(**chat("again")).message.content == "again")


def test_interrupted_stream_closes_its_connection_and_releases_its_slot(server: Server, client: ollama.Client) -> None:
    with interrupted(lambda: server.until(lambda: server.in_flight == 1), lambda: server.release(1)):
        for _ in client.chat(**chat("hold", stream=True)):
            pass
    server.until(lambda: server.disconnects == 1)
    assert still_works(client)
    counted = client.stats()["totals"]
    assert (counted["calls"], counted["cancelled"], counted["in_flight"]) == (2, 1, 0)


def test_interrupted_plain_call_closes_its_connection_and_releases_its_slot(
    server: Server, client: ollama.Client
) -> None:
    with interrupted(lambda: server.until(lambda: server.in_flight == 1), lambda: server.release(1)):
        client.chat(**chat("hold"))
    server.until(lambda: server.disconnects == 1)
    assert still_works(client)
    assert client.stats()["totals"]["cancelled"] == 1


def test_interrupted_waiting_call_leaves_the_queue(server: Server, client: ollama.Client) -> None:
    stream = client.chat(**chat("hold", stream=True))
    next(stream)
    with interrupted(lambda: until_one_waits(client)):  # after a signal just before the wait, the timeout ends it
        client.chat(**chat("never sent"))
    assert client.stats()["totals"]["waiting"] == 0
    stream.close()
    assert still_works(client)
    assert [request.content["messages"][-1]["content"] for request in server.posts(CHAT)] == ["hold", "again"]
