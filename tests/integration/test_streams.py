"""Streams and calls that end early, time out or find no server, and concurrent calls, on a real vLLM server."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

import ollama_compat as ollama
from tests.polling import eventually

pytestmark = pytest.mark.vllm

STORY = [{"role": "user", "content": "Write a very long story about a dragon."}]
ENDLESS = {"temperature": 0.8, "seed": 1, "num_predict": -1, "repeat_penalty": 1.2}


def running(url: str) -> float:
    """Number of requests that the server works on."""
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    return sum(float(value) for value in re.findall(r"^vllm:num_requests_running\{[^}]*\} (\S+)$", metrics, re.M))


def becomes_idle(url: str) -> bool:
    return eventually(lambda: running(url) == 0)


def finds_servers(client: ollama.Client) -> bool:
    try:
        client.list()
    except (httpx.TimeoutException, ConnectionError):
        return False
    return True


def test_breaking_out_of_a_stream_aborts_the_request(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        for part in client.chat("smol", STORY, options=ENDLESS, stream=True):
            assert part.message.content
            break
        assert becomes_idle(chat_server.url)


def test_closing_a_stream_aborts_the_request(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        stream = client.generate("smol", "Tell me a very long story", options=ENDLESS, stream=True)
        next(stream)
        assert eventually(lambda: running(chat_server.url) == 1)
        stream.close()
        assert becomes_idle(chat_server.url)


async def test_cancelling_a_task_aborts_the_request(chat_server):
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
        assert await asyncio.to_thread(becomes_idle, chat_server.url)


def test_timeout_of_a_plain_call_aborts_the_request(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url, timeout=0.5) as client:
        # The timeout also applies to discovery, which can take longer than that on a busy machine.
        assert eventually(lambda: finds_servers(client))
        with pytest.raises(httpx.TimeoutException, match=re.escape(chat_server.url)):
            client.chat("smol", STORY, options=ENDLESS)
        assert becomes_idle(chat_server.url)


def test_client_reuses_its_connection(chat_server):
    with ollama.Client(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        for stream in (False, True, False, True):
            reply = client.chat("smol", STORY, options={"num_predict": 2}, stream=stream)
            assert list(reply)
        assert len(client._client._transport._pool.connections) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_unreachable_server_raises_the_errors_of_the_official_client(connect, stream):
    ask = connect(vllm_urls="http://127.0.0.1:9")
    for kind in (ConnectionError, httpx.ConnectError):
        with pytest.raises(kind) as raised:
            ask.chat("smol", STORY, stream=stream)
        for needed in ("http://127.0.0.1:9", "'smol'", "/health", "VLLM_URLS"):
            assert needed in str(raised.value)


def test_call_uses_another_server_when_one_is_unreachable(connect, chat_server):
    ask = connect(vllm_urls=f"http://127.0.0.1:9,{chat_server.url}")
    for _ in range(3):
        assert ask.chat("smol", STORY, options={"num_predict": 2}).eval_count == 2


async def test_client_answers_many_concurrent_tasks(chat_server):
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        calls = [client.chat("smol", STORY, options={"num_predict": 4, "seed": i}) for i in range(24)]
        replies = await asyncio.gather(*calls)
    assert [reply.eval_count for reply in replies] == [4] * 24
