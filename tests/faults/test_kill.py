"""A server is killed under 200 streams, with a second one of the same model beside it."""

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
LIMIT_S = 240.0  # for all of them: nothing may hang


@pytest.fixture
def victim(pytestconfig: pytest.Config, chat_server: RunningServer) -> Iterator[ServerProcess]:
    """A second server of the model that `chat_server` serves."""
    with serving(pytestconfig, [servers.chat(free_ports(1)[0])], (models.SMOLLM2,)) as (process,):
        yield process


@dataclass
class Ended:
    """How one stream ended."""

    parts: int = 0
    done: bool = False
    error: Exception | None = None


async def test_no_call_is_lost_that_had_not_begun_to_answer(
    chat_server: RunningServer, victim: ServerProcess, vllm_env: VllmEnv
) -> None:
    begun = asyncio.Event()

    async def ask(client: ollama.AsyncClient, number: int, ended: Ended) -> None:
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
                    streams.create_task(ask(client, number, ended))
                await begun.wait()
                assert victim.pid is not None
                os.killpg(victim.pid, signal.SIGKILL)
            counted = client.stats()["models"][chat_server.model]["chat"]
        del streams
    broken = [ended for ended in all_ended if not ended.done]
    assert [ended for ended in broken if ended.parts == 0] == [], "lost before it had begun to answer"
    assert [ended for ended in broken if not isinstance(ended.error, ResponseError)] == [], "no clear error"
    assert all("unexpected EOF" in str(ended.error) and victim.url in str(ended.error) for ended in broken)
    assert [ended for ended in all_ended if ended.done and ended.error] == []
    assert counted["failovers"] > 0
    assert (counted["calls"], counted["in_flight"]) == (STREAMS, 0)
    assert sum(counted["errors"].values()) == len(broken)
