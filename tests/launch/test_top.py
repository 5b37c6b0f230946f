"""The figures that `vllm-launch top` shows of real vLLM servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ollama_compat import Client
from tests.conftest import RunningServer, VllmEnv
from tests.polling import eventually
from vllm_launch.cli import main
from vllm_launch.metrics import Figures
from vllm_launch.top import Target, Watch

# Long enough for several blocks of the prefix cache.
PROMPT = "Count from one to ten: one, two, three, four, five, six, seven, eight, nine, ten. " * 12
TOKENS = 40
CALLS = 6
TEXTS = 5
WIDEST_BUCKET = 5
"""Largest ratio of the bounds of a bucket in vLLM's histograms: a percentile is that much too high at most."""


@pytest.fixture
def client(vllm_env: VllmEnv, chat_server: RunningServer, embed_server: RunningServer) -> Iterator[Client]:
    vllm_env(chat_server, embed_server)
    client = Client()
    yield client
    client.close()


def generate(client: Client, length: int = TOKENS) -> tuple[int, int]:
    """Generates text. Returns the number of input and output tokens."""
    options = {"num_predict": length, "temperature": 0}
    reply = client.generate("smol", PROMPT, raw=True, options=options)
    return reply.prompt_eval_count, reply.eval_count


def ready(watch: Watch, *servers: RunningServer) -> list[Figures]:
    rows = watch.look([Target(server.model, server.url) for server in servers], timeout_s=300)
    assert [(row.state, row.reason) for row in rows] == [("ready", "")] * len(servers)
    return [row.figures for row in rows if row.figures]


def now(server: RunningServer) -> Figures:
    """The figures since the start of a server."""
    with Watch() as watch:
        [figures] = ready(watch, server)
    return figures


def finish_earlier_requests(*servers: RunningServer) -> None:
    """vLLM updates its metrics a moment after its reply, so earlier tests may still change them."""
    assert all(eventually(lambda server=server: now(server).running == 0) for server in servers)


def test_figures_match_the_requests(client: Client, chat_server: RunningServer, embed_server: RunningServer):
    generate(client)  # puts the prompt into the prefix cache
    finish_earlier_requests(chat_server, embed_server)
    with Watch() as watch:
        chat_before, embed_before = ready(watch, chat_server, embed_server)
        with ThreadPoolExecutor(CALLS) as threads:
            counted = list(threads.map(lambda _: generate(client), range(CALLS)))
        client.embed("minilm", ["The sky is blue."] * TEXTS)
        assert eventually(lambda: now(chat_server).done >= chat_before.done + CALLS)
        assert eventually(lambda: now(embed_server).done >= embed_before.done + TEXTS)
        chat, embed = ready(watch, chat_server, embed_server)
    tokens_in, tokens_out = (sum(counts) for counts in zip(*counted, strict=True))
    assert chat.prompt_tokens - chat_before.prompt_tokens == tokens_in
    assert chat.generation_tokens - chat_before.generation_tokens == tokens_out
    assert chat.seconds is not None
    assert chat.prompt_tokens_per_second == pytest.approx(tokens_in / chat.seconds)
    assert chat.generation_tokens_per_second == pytest.approx(tokens_out / chat.seconds)
    assert chat.done - chat_before.done == CALLS
    assert chat.finished.keys() >= {"stop", "length", "abort", "error"}
    assert chat.prefix_cache_hit_rate is not None
    assert 0.3 < chat.prefix_cache_hit_rate < 1
    assert chat.time_to_first_token_p50 is not None
    assert chat.time_to_first_token_p95 is not None
    longest = chat.seconds * WIDEST_BUCKET
    assert 0 < chat.time_to_first_token_p50 <= chat.time_to_first_token_p95 < longest
    assert chat.inter_token_latency_p50 is not None
    assert chat.inter_token_latency_p95 is not None
    assert 0 < chat.inter_token_latency_p50 <= chat.inter_token_latency_p95 < longest

    assert embed.done - embed_before.done == TEXTS
    assert embed.prompt_tokens > embed_before.prompt_tokens
    assert embed.generation_tokens == 0
    assert embed.inter_token_latency_p50 is None
    assert embed.time_to_first_token_p50 is not None  # for embeddings vLLM counts the time to the vector


def test_figures_count_running_and_failed_requests(client: Client, chat_server: RunningServer):
    finish_earlier_requests(chat_server)
    before = now(chat_server)
    parts = client.generate("smol", PROMPT, raw=True, stream=True, options={"num_predict": 1000})
    next(parts)
    during = eventually(lambda: figures if (figures := now(chat_server)).running == 1 else None)
    parts.close()
    completions = f"{chat_server.url}/v1/completions"
    wrong = httpx.post(completions, json={"model": "none", "prompt": "x"}, trust_env=False, timeout=300)
    assert during is not None
    assert during.kv_cache_usage is not None
    assert 0 < during.kv_cache_usage < 1
    assert wrong.status_code == 404
    assert eventually(lambda: now(chat_server).errors == before.errors + 1)
    finish_earlier_requests(chat_server)
    assert now(chat_server).done == before.done


def test_top_command_shows_the_figures(
    client: Client, chat_server: RunningServer, embed_server: RunningServer, capsys: pytest.CaptureFixture[str]
):
    generate(client, 5)

    client.embed("minilm", "The sky is blue.")
    assert eventually(lambda: min(now(chat_server).done, now(embed_server).done))
    urls = ["--url", chat_server.url, "--url", embed_server.url]
    chat, embed = (line.split() for line in printed(capsys, *urls).splitlines()[2:4])
    assert (chat[1], embed[1]) == ("ready", "ready")
    assert "–" not in chat
    assert embed[10:12] == ["–", "–"]  # no time between tokens
    report = json.loads(printed(capsys, "--json", *urls))
    assert [sum(row["figures"]["finished"].values()) > 0 for row in report["servers"]] == [True, True]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--once", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out
