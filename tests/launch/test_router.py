"""Replicas behind vLLM's router: real servers, a real router with docker-compose.yml's flags, and one server killed.

`chat_server` is one replica, which asks for no key; the other one does, and is killed by the last test. docs/scale.md
tells users what is found here.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

import ollama_compat as ollama
from testbed import metrics, models, router, servers
from testbed.paths import HOME, TestbedError
from tests.conftest import RunningServer, serving
from vllm_launch import ServerProcess, free_ports
from vllm_launch.metrics import RUNNING, read

pytestmark = pytest.mark.vllm

KEY = "what-the-victim-asks-for"
KEY_SENT = {"Authorization": f"Bearer {KEY}"}
LOGS = HOME / "logs" / "tests"
SHORT = {"temperature": 0, "seed": 1, "num_predict": 12}
SKY = [{"role": "user", "content": "Why is the sky blue?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}},
    },
}
SUM = [
    {"role": "user", "content": "What is 3 plus 4?"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"b": 4, "a": 3}}}]},
    {"role": "tool", "tool_name": "add", "content": "7"},
]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
}
LONG = [{"role": ("user", "assistant")[number % 2], "content": f"{number}: " + "words " * 30} for number in range(9)]


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        router.prepare()
    except TestbedError as reason:
        pytest.skip(f"There is no vLLM router to test with. {reason}")


@pytest.fixture(scope="module")
def victim(
    installed: None,
    pytestconfig: pytest.Config,
    chat_server: RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """The second replica."""
    key_file = tmp_path_factory.mktemp("replica") / "key"
    key_file.write_text(KEY)
    server = servers.chat(free_ports(1)[0]).model_copy(update={"name": "replica", "api_key_file": key_file})
    with serving(pytestconfig, [server], (models.SMOLLM2,)) as (process,):
        yield process


@pytest.fixture(scope="module")
def url(chat_server: RunningServer, victim: ServerProcess) -> Iterator[str]:
    """The router before both."""
    with router.running([chat_server.url, victim.url], LOGS / "router.log") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def closed_url(victim: ServerProcess) -> Iterator[str]:
    """A router before the replica alone that asks for a key."""
    with router.running([victim.url], LOGS / "router-closed.log") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def embed_url(installed: None, embed_server: RunningServer) -> Iterator[str]:
    """A router before the embedding server."""
    with router.running([embed_server.url], LOGS / "router-embed.log") as base_url:
        yield base_url


@pytest.fixture
def ask() -> Iterator[Callable[[str], ollama.Client]]:
    """Makes a client of the server or router at a URL."""
    clients: list[ollama.Client] = []

    def connected(base_url: str) -> ollama.Client:
        clients.append(ollama.Client(backend_mode="vllm", vllm_urls=base_url, vllm_api_key=KEY))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


def said(reply: ollama.ChatResponse) -> tuple[object, ...]:
    return reply.message, reply.done_reason, reply.prompt_eval_count, reply.eval_count


def streamed(parts: Iterator[ollama.ChatResponse]) -> list[tuple[object, ...]]:
    return [(part.message.content, part.done_reason, part.eval_count) for part in parts]


def shown(reply: ollama.ShowResponse) -> tuple[object, ...]:
    return reply.capabilities, reply.modelinfo, reply.details


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: [model.model for model in client.list().models], id="list"),
        pytest.param(lambda client: shown(client.show("smol")), id="show"),
        pytest.param(lambda client: [(model.name, model.context_length) for model in client.ps().models], id="ps"),
        pytest.param(lambda client: said(client.chat("smol", SKY, options=SHORT)), id="chat"),
        pytest.param(lambda client: streamed(client.chat("smol", SKY, options=SHORT, stream=True)), id="stream"),
        pytest.param(lambda client: said(client.chat("smoltools", SUM, tools=[TOOL], options=SHORT)), id="tools"),
        pytest.param(lambda client: said(client.chat("smolthink", SKY, think=True, options=SHORT)), id="thinking"),
        pytest.param(lambda client: said(client.chat("smol", SKY, format=PERSON, options=SHORT)), id="format"),
        pytest.param(lambda client: said(client.chat("smol", LONG, options={**SHORT, "num_ctx": 150})), id="shortened"),
        pytest.param(lambda client: client.chat("smol", SKY, logprobs=True, options=SHORT).logprobs, id="logprobs"),
        pytest.param(lambda client: client.generate("smol", "Hello", options=SHORT).response, id="generate"),
        pytest.param(lambda client: client.generate("smol", "The sky is", raw=True, options=SHORT).response, id="raw"),
    ],
)
def test_a_call_is_answered_as_without_the_router(
    call: Callable[[ollama.Client], object], ask: Callable[[str], ollama.Client], url: str, victim: ServerProcess
) -> None:
    assert call(ask(url)) == call(ask(victim.url))


def test_a_call_that_is_refused_is_refused_in_the_same_words(
    ask: Callable[[str], ollama.Client], url: str, victim: ServerProcess
) -> None:
    refusals = []
    for base_url in (url, victim.url):
        with pytest.raises(ollama.ResponseError) as raised:
            ask(base_url).chat("smol", SKY, options={"repeat_penalty": 0.0})
        refusals.append((raised.value.error, raised.value.status_code))
    assert refusals[0] == refusals[1]


CHAT = {"model": "smol", "messages": SKY, "max_tokens": 2}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/health", None, 200),
        ("/version", None, 200),
        ("/metrics", None, 200),
        ("/openapi.json", None, 200),
        ("/tokenize", {"model": "smol", "prompt": "Hello"}, 200),
        ("/v1/models", None, 200),
        ("/v1/chat/completions", CHAT, 200),
        ("/v1/completions", {"model": "smol", "prompt": "Hello", "max_tokens": 2}, 200),
        # A server that generates has no embeddings: with a key it says so.
        ("/v1/embeddings", {"model": "smol", "input": "Hello"}, 404),
        # Of these the router hands on the body alone.
        ("/v1/chat/completions/render", CHAT, 401),
        ("/v1/responses", {"model": "smol", "input": "Hello"}, 401),
    ],
)
def test_the_router_hands_on_a_path_and_its_key(
    path: str, body: dict[str, object] | None, status: int, closed_url: str
) -> None:
    method = "GET" if body is None else "POST"
    reply = httpx.request(method, closed_url + path, json=body, headers=KEY_SENT, timeout=60, trust_env=False)
    assert reply.status_code == status, reply.text


def test_a_missing_key_is_told_as_such(closed_url: str) -> None:
    with (
        ollama.Client(backend_mode="vllm", vllm_urls=closed_url, vllm_api_key="another") as client,
        pytest.raises(ollama.ResponseError, match="requires a valid API key") as raised,
    ):
        client.chat("smol", SKY)
    assert raised.value.status_code == 401


def test_embeddings_are_the_same(
    ask: Callable[[str], ollama.Client], embed_url: str, embed_server: RunningServer
) -> None:
    texts = ["하늘은 파랗다.", "The sky is blue."]
    routed, direct = (ask(base_url).embed("minilm", texts).embeddings for base_url in (embed_url, embed_server.url))
    assert [pytest.approx(vector, abs=1e-6) for vector in direct] == routed


def test_the_router_takes_the_order_to_cut_a_text_out_of_a_request_for_embeddings(
    embed_url: str, embed_server: RunningServer
) -> None:
    request = {"model": "minilm", "input": "word " * 600, "truncate_prompt_tokens": -1}
    routed, direct = (httpx.post(f"{url}/v1/embeddings", json=request) for url in (embed_url, embed_server.url))
    assert (direct.status_code, routed.status_code) == (200, 400)


def test_the_router_takes_the_order_to_count_tokens_all_along_out_of_a_stream(url: str, victim: ServerProcess) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    counted = []
    for base_url in (url, victim.url):
        request = {**CHAT, "stream": True, "stream_options": options}
        text = httpx.post(f"{base_url}/v1/chat/completions", json=request, headers=KEY_SENT, timeout=60).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        counted.append([bool(event.get("usage")) for event in events])
    routed, direct = counted
    assert all(direct)
    assert routed == [*(False for _ in routed[1:]), True]


class StandIn(ThreadingHTTPServer):
    """A replica of a few lines, which tells who it is; for one caller at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def die(self) -> None:
        """Once or twice."""
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"by": self.server.url}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stand_ins(installed: None) -> Iterator[dict[str, StandIn]]:
    """Two replicas, by URL."""
    replicas = {replica.url: replica for replica in (StandIn(), StandIn())}
    yield dict(replicas)
    for replica in replicas.values():
        replica.die()


def answer(url: str, body: dict[str, object] | None = None) -> str:
    """Who answers; what is said instead where nobody does."""
    method = "GET" if body is None else "POST"
    reply = httpx.request(method, url, json=body, timeout=30, trust_env=False)
    return str(reply.json()["by"]) if reply.is_success else reply.text


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/embeddings", {"model": "minilm", "input": "Hello"})]
)
def test_a_lone_caller_loses_no_call_when_the_replica_dies_that_has_answered_it(
    path: str, body: dict[str, object], stand_ins: dict[str, StandIn]
) -> None:
    with router.running(list(stand_ins), LOGS / "router-lone.log") as base_url:
        stand_ins.pop(answer(base_url + path, body)).die()
        (other,) = stand_ins
        assert [answer(base_url + path, body) for _ in range(4)] == [other] * 4


def test_what_is_served_is_told_by_another_replica_once_the_dead_one_is_found_out(
    stand_ins: dict[str, StandIn],
) -> None:
    with router.running(list(stand_ins), LOGS / "router-models.log") as base_url:
        stand_ins.pop(answer(f"{base_url}/v1/models")).die()
        (other,) = stand_ins
        told = ""
        for _ in range(100):
            told = answer(f"{base_url}/v1/models")
            if told == other:
                break
            time.sleep(0.1)
        assert told == other


@dataclass
class Ended:
    """How one call ended."""

    after_kill: bool
    """Whether it began when the replica was dead."""
    parts: int = 0
    error: Exception | None = None


class Load:
    """Callers of three kinds, each call after call, until each has made two more after the kill."""

    CALLERS = 2

    def __init__(self, client: ollama.Client) -> None:
        self.killed = threading.Event()
        self._client = client
        self._openai = client.openai("smol").with_options(max_retries=0)
        self.ended: dict[str, list[Ended]] = {kind: [] for kind in ("streamed", "plain", "openai")}
        calls = (self._streamed, self._plain, self._openai_plain)
        self._threads = [
            threading.Thread(target=self._keeps_calling, args=(call, caller, ended))
            for call, ended in zip(calls, self.ended.values(), strict=True)
            for caller in range(self.CALLERS)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(120)
        self._openai.close()
        assert not any(thread.is_alive() for thread in self._threads), "a call hangs"

    def _keeps_calling(self, call: Callable[[Any, Ended], None], caller: int, ended: list[Ended]) -> None:
        number = after_kill = 0
        while after_kill < 2:
            this = Ended(self.killed.is_set())
            number, after_kill = number + 1, after_kill + this.after_kill
            # Different from the first word on: with a common beginning one replica would get them all.
            message = {"role": "user", "content": f"{caller}{call.__name__}{number} is what you write about."}
            try:
                call([message], this)
            except Exception as error:
                this.error = error
            ended.append(this)

    def _streamed(self, messages: Any, ended: Ended) -> None:
        for _ in self._client.chat("smol", messages, stream=True, options={"num_predict": 24}):
            ended.parts += 1

    def _plain(self, messages: Any, ended: Ended) -> None:
        self._client.chat("smol", messages, options={"num_predict": 24})

    def _openai_plain(self, messages: Any, ended: Ended) -> None:
        self._openai.chat.completions.create(model="smol", messages=messages, max_tokens=24)


def test_a_replica_is_killed_under_load(
    ask: Callable[[str], ollama.Client], url: str, chat_server: RunningServer, victim: ServerProcess
) -> None:
    load = Load(ask(url))
    load.begin()
    wait_until_busy(victim.url)
    assert victim.pid is not None
    os.killpg(victim.pid, signal.SIGKILL)
    load.killed.set()
    answered_before = answered(chat_server.url)
    load.finish()

    ended = [each for calls in load.ended.values() for each in calls]
    later = [each for each in ended if each.after_kill]
    assert [each.error for each in later if each.error] == [], "a call failed that began after the death"
    assert answered(chat_server.url) - answered_before >= len(later), "the other replica answers them"
    # Of the calls that the dead one was at work on, those are asked again of which the caller had nothing.
    assert [each.error for kind in ("plain", "openai") for each in load.ended[kind] if each.error] == []
    assert [each.error for each in load.ended["streamed"] if each.error and not each.parts] == []
    cut_off = [each.error for each in ended if each.error]
    assert [str(error) for error in cut_off if "unexpected EOF" not in str(error) or url not in str(error)] == []


def wait_until_busy(base_url: str) -> None:
    """Until the server works on two calls."""
    with httpx.Client(trust_env=False) as http:
        for _ in range(2000):
            if (read(http.get(f"{base_url}/metrics").text).sum(RUNNING) or 0) >= 2:
                return
    pytest.fail(f"{base_url} has nothing to do")


def answered(base_url: str) -> int:
    return sum(row.requests for row in metrics.answered(base_url) if row.path == "/v1/chat/completions")
