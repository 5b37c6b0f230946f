"""Streams that do not end as planned: left early, cut off, or never begun."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable

import httpx
import pytest

import ollama_compat as ollama

pytestmark = pytest.mark.vllm

STORY = [{"role": "user", "content": "Write a very long story about a dragon."}]
ENDLESS = {"temperature": 0.8, "seed": 1, "num_predict": -1, "repeat_penalty": 1.2}


def running(url: str) -> float:
    metrics = httpx.get(f"{url}/metrics").text
    return sum(float(value) for value in re.findall(r"^vllm:num_requests_running\{[^}]*\} (\S+)$", metrics, re.M))


def eventually(condition: Callable[[], bool], within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.1)
    return True


def test_a_stream_that_is_left_early_frees_the_server(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        for part in client.chat("smol", STORY, options=ENDLESS, stream=True):
            assert part.message.content
            break
        assert eventually(lambda: running(chat_server.url) == 0)


def test_a_stream_that_is_closed_frees_the_server(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        stream = client.generate("smol", "Tell me a very long story", options=ENDLESS, stream=True)
        next(stream)
        assert running(chat_server.url) == 1
        stream.close()
        assert eventually(lambda: running(chat_server.url) == 0)


async def test_a_cancelled_task_frees_the_server(chat_server):
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        begun = asyncio.Event()

        async def listen() -> None:
            async for _ in await client.chat("smol", STORY, options=ENDLESS, stream=True):
                begun.set()

        task = asyncio.create_task(listen())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(eventually, lambda: running(chat_server.url) == 0)


def test_a_plain_call_that_times_out_frees_the_server(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url, timeout=0.5) as client:
        client.list()  # so that the half second is the call's own
        with pytest.raises(httpx.TimeoutException, match=re.escape(chat_server.url)):
            client.chat("smol", STORY, options=ENDLESS)
        assert eventually(lambda: running(chat_server.url) == 0)


def test_connections_are_used_again(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        for stream in (False, True, False, True):
            reply = client.chat("smol", STORY, options={"num_predict": 2}, stream=stream)
            assert list(reply)
        assert len(client._client._transport._pool.connections) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_no_server_is_caught_as_with_the_official_client(connect, stream):
    ask = connect(vllm_urls="http://127.0.0.1:9")
    for kind in (ConnectionError, httpx.ConnectError):
        with pytest.raises(kind) as raised:
            ask.chat("smol", STORY, stream=stream)
        for needed in ("http://127.0.0.1:9", "'smol'", "/health", "VLLM_URLS"):
            assert needed in str(raised.value)


def test_a_server_that_is_gone_is_stood_in_for(connect, chat_server):
    ask = connect(vllm_urls=f"http://127.0.0.1:9,{chat_server.url}")
    for _ in range(3):
        assert ask.chat("smol", STORY, options={"num_predict": 2}).eval_count == 2


async def test_many_tasks_at_once(chat_server):
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        calls = [client.chat("smol", STORY, options={"num_predict": 4, "seed": i}) for i in range(24)]
        replies = await asyncio.gather(*calls)
    assert [reply.eval_count for reply in replies] == [4] * 24
