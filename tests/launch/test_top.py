"""The figures of real vLLM servers that answer the shim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ollama_compat import Client
from tests.conftest import RunningServer, VllmEnv
from vllm_launch.cli import main
from vllm_launch.metrics import Figures
from vllm_launch.top import Target, Watch

PROMPT = (
    "Count from one to ten: one, two, three, four, five, six, seven, eight, nine, ten. " * 12
)  # blocks of the cache
TOKENS = 40
CALLS = 6
TEXTS = 5


@pytest.fixture
def client(vllm_env: VllmEnv, chat_server: RunningServer, embed_server: RunningServer) -> Iterator[Client]:
    vllm_env(chat_server, embed_server)
    client = Client()
    yield client
    client.close()


def generate(client: Client, length: int = TOKENS) -> tuple[int, int]:
    """Tokens in and out."""
    options = {"num_predict": length, "temperature": 0}
    reply = client.generate("smol", PROMPT, raw=True, options=options)
    return reply.prompt_eval_count, reply.eval_count


def ready(watch: Watch, *servers: RunningServer) -> list[Figures]:
    rows = watch.look([Target(server.model, server.url) for server in servers], timeout_s=30)
    assert [(row.state, row.reason) for row in rows] == [("ready", "")] * len(servers)
    return [row.figures for row in rows if row.figures]


def test_the_figures_are_what_was_asked(client: Client, chat_server: RunningServer, embed_server: RunningServer):
    generate(client)  # so that the prompt is in the prefix cache
    with Watch() as watch:
        chat_before, embed_before = ready(watch, chat_server, embed_server)
        with ThreadPoolExecutor(CALLS) as threads:
            told = list(threads.map(lambda _: generate(client), range(CALLS)))
        client.embed("minilm", ["The sky is blue."] * TEXTS)
        chat, embed = ready(watch, chat_server, embed_server)
    tokens_in, tokens_out = (sum(counts) for counts in zip(*told, strict=True))
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
    assert 0 < chat.time_to_first_token_p50 <= chat.time_to_first_token_p95 < chat.seconds
    assert chat.inter_token_latency_p50 is not None
    assert chat.inter_token_latency_p95 is not None
    assert 0 < chat.inter_token_latency_p50 <= chat.inter_token_latency_p95 < chat.seconds

    assert embed.done - embed_before.done == TEXTS
    assert embed.prompt_tokens > embed_before.prompt_tokens
    assert embed.generation_tokens == 0
    assert embed.inter_token_latency_p50 is None
    assert embed.time_to_first_token_p50 is not None  # vLLM counts the time to the vector here


def test_requests_that_run_and_requests_that_fail(client: Client, chat_server: RunningServer):
    with Watch() as watch:
        [before] = ready(watch, chat_server)
        parts = client.generate("smol", PROMPT, raw=True, stream=True, options={"num_predict": 1000})
        next(parts)
        [during] = ready(watch, chat_server)
        parts.close()
        wrong = httpx.post(f"{chat_server.url}/v1/completions", json={"model": "none", "prompt": "x"}, trust_env=False)
        [after] = ready(watch, chat_server)
    assert during.running == 1
    assert during.kv_cache_usage is not None
    assert 0 < during.kv_cache_usage < 1
    assert wrong.status_code == 404
    assert (before.errors + 1, before.done) == (after.errors, after.done)


def test_the_command_shows_them(
    client: Client, chat_server: RunningServer, embed_server: RunningServer, capsys: pytest.CaptureFixture[str]
):
    generate(client, 5)
    client.embed("minilm", "The sky is blue.")
    urls = ["--url", chat_server.url, "--url", embed_server.url]
    chat, embed = (line.split() for line in printed(capsys, *urls).splitlines()[2:4])
    assert (chat[1], embed[1]) == ("ready", "ready")
    assert "–" not in chat
    assert embed[10:12] == ["–", "–"]  # no time between tokens
    told = json.loads(printed(capsys, "--json", *urls))
    assert [sum(row["figures"]["finished"].values()) > 0 for row in told["servers"]] == [True, True]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--once", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out
