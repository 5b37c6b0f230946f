"""One of two servers of the same model is killed while both answer 200 streams."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import ollama_compat as ollama
from ollama_compat import ResponseError
from testbed import models, servers
from tests.conftest import RunningServer, VllmEnv, serving
from vllm_launch import ServerProcess, free_ports

from .leaks import Leaks

STREAMS = 200
LATE = 20
"""Streams that start immediately before the kill, so that some of them are surely not answered yet."""
LIMIT_S = 1800.0
"""Limit for all streams, so that a hanging one fails the test."""


@pytest.fixture
def victim(pytestconfig: pytest.Config, chat_server: RunningServer) -> Iterator[ServerProcess]:
    """A second server of the model of `chat_server`."""
    with serving(pytestconfig, [servers.chat(free_ports(1)[0])], (models.SMOLLM2,)) as (process,):
        yield process


@dataclass
class Ended:
    """How one stream ended."""

    parts: int = 0
    done: bool = False
    error: Exception | None = None


async def test_calls_without_a_first_part_are_answered_by_the_other_server(
    chat_server: RunningServer, victim: ServerProcess, vllm_env: VllmEnv
) -> None:
    begun = asyncio.Event()

    async def stream(client: ollama.AsyncClient, number: int, ended: Ended) -> None:
        messages = [{"role": "user", "content": f"Write about the number {number}."}]
        options = {"num_predict": 40, "temperature": 0}
        try:
            async for part in await client.chat(chat_server.model, messages, stream=True, options=options):
                ended.parts += 1
                ended.done = bool(part.done)
                begun.set()
        except Exception as error:
            ended.error = error

    vllm_env(chat_server)
    all_ended = [Ended() for _ in range(STREAMS)]
    async with Leaks():
        urls = f"{chat_server.url},{victim.url}"
        async with ollama.AsyncClient(vllm_urls=urls) as client, asyncio.timeout(LIMIT_S):
            async with asyncio.TaskGroup() as streams:
                for number, ended in enumerate(all_ended):
                    if number == STREAMS - LATE:
                        await begun.wait()
                    streams.create_task(stream(client, number, ended))
                assert victim.pid is not None
                os.killpg(victim.pid, signal.SIGKILL)
            counted = client.stats()["models"][chat_server.model]["chat"]
        del streams
    broken = [ended for ended in all_ended if not ended.done]
    assert [ended for ended in broken if ended.parts == 0] == [], "failed without a first part"
    assert [ended for ended in broken if not isinstance(ended.error, ResponseError)] == [], "an unexpected error"
    assert all("unexpected EOF" in str(ended.error) and victim.url in str(ended.error) for ended in broken)
    assert [ended for ended in all_ended if ended.done and ended.error] == []
    assert counted["failovers"] > 0
    assert (counted["calls"], counted["in_flight"]) == (STREAMS, 0)
    assert sum(counted["errors"].values()) == len(broken)
