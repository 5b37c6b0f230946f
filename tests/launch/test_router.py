"""Replicas behind vLLM's router: real servers, and a real router with the flags of docker-compose.yml.

`chat_server` is one replica and requires no API key. `victim` is the other; it requires a key, and the last test kills
it. docs/scale.md describes the behaviour that these tests check.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
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
from tests.polling import eventually
from vllm_launch import ServerProcess, free_ports
from vllm_launch.metrics import RUNNING, read

pytestmark = pytest.mark.vllm

KEY = "key-of-the-victim"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
TIMEOUT_S = 300.0
"""Limit of a request, a thread or a wait. It is reached only if a test fails."""
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
        pytest.skip(f"vLLM's router cannot be installed. {reason}")


@pytest.fixture(scope="module")
def victim(
    installed: None,
    pytestconfig: pytest.Config,
    chat_server: RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """The second replica, which requires an API key."""
    key_file = tmp_path_factory.mktemp("replica") / "key"
    key_file.write_text(KEY)
    server = servers.chat(free_ports(1)[0]).model_copy(update={"name": "replica", "api_key_file": key_file})
    with serving(pytestconfig, [server], (models.SMOLLM2,)) as (process,):
        yield process


@pytest.fixture(scope="module")
def url(chat_server: RunningServer, victim: ServerProcess) -> Iterator[str]:
    """The router before both replicas."""
    with router.running([chat_server.url, victim.url], LOGS / "router.log") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def closed_url(victim: ServerProcess) -> Iterator[str]:
    """A router before the replica that requires a key."""
    with router.running([victim.url], LOGS / "router-closed.log") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def embed_url(installed: None, embed_server: RunningServer) -> Iterator[str]:
    """A router before the embedding server."""
    with router.running([embed_server.url], LOGS / "router-embed.log") as base_url:
        yield base_url


@pytest.fixture
def client_of() -> Iterator[Callable[[str], ollama.Client]]:
    """Makes a client of the server or router at a URL."""
    with contextlib.ExitStack() as clients:
        yield lambda base_url: clients.enter_context(
            ollama.Client(backend_mode="vllm", vllm_urls=base_url, vllm_api_key=KEY)
        )


def content(reply: ollama.ChatResponse) -> tuple[object, ...]:
    return reply.message, reply.done_reason, reply.prompt_eval_count, reply.eval_count


def streamed(parts: Iterator[ollama.ChatResponse]) -> tuple[object, ...]:
    """The content of a stream, however vLLM divides it into parts."""
    received = list(parts)
    text = "".join(part.message.content or "" for part in received)
    return text, received[-1].done_reason, received[-1].prompt_eval_count, received[-1].eval_count


def details(reply: ollama.ShowResponse) -> tuple[object, ...]:
    return reply.capabilities, reply.modelinfo, reply.details


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: [model.model for model in client.list().models], id="list"),
        pytest.param(lambda client: details(client.show("smol")), id="show"),
        pytest.param(lambda client: [(model.name, model.context_length) for model in client.ps().models], id="ps"),
        pytest.param(lambda client: content(client.chat("smol", SKY, options=SHORT)), id="chat"),
        pytest.param(lambda client: streamed(client.chat("smol", SKY, options=SHORT, stream=True)), id="stream"),
        pytest.param(lambda client: content(client.chat("smoltools", SUM, tools=[TOOL], options=SHORT)), id="tools"),
        pytest.param(lambda client: content(client.chat("smolthink", SKY, think=True, options=SHORT)), id="thinking"),
        pytest.param(lambda client: content(client.chat("smol", SKY, format=PERSON, options=SHORT)), id="format"),
        pytest.param(lambda client: content(client.chat("smol", LONG, options={**SHORT, "num_ctx": 150})), id="cut"),
        pytest.param(lambda client: client.chat("smol", SKY, logprobs=True, options=SHORT).logprobs, id="logprobs"),
        pytest.param(lambda client: client.generate("smol", "Hello", options=SHORT).response, id="generate"),
        pytest.param(lambda client: client.generate("smol", "The sky is", raw=True, options=SHORT).response, id="raw"),
    ],
)
def test_router_does_not_change_an_answer(
    call: Callable[[ollama.Client], object], client_of: Callable[[str], ollama.Client], url: str, victim: ServerProcess
) -> None:
    assert call(client_of(url)) == call(client_of(victim.url))


def test_router_does_not_change_an_error(
    client_of: Callable[[str], ollama.Client], url: str, victim: ServerProcess
) -> None:
    errors = []
    for base_url in (url, victim.url):
        with pytest.raises(ollama.ResponseError) as raised:
            client_of(base_url).chat("smol", SKY, options={"repeat_penalty": 0.0})
        errors.append((raised.value.error, raised.value.status_code))
    assert errors[0] == errors[1]


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
        # A generating server has no embeddings. It returns 404 only to a request with a valid key.
        ("/v1/embeddings", {"model": "smol", "input": "Hello"}, 404),
        # On these paths the router forwards the body without the key.
        ("/v1/chat/completions/render", CHAT, 401),
        ("/v1/responses", {"model": "smol", "input": "Hello"}, 401),
    ],
)
def test_router_forwards_a_path_and_its_key(
    path: str, body: dict[str, object] | None, status: int, closed_url: str
) -> None:
    method = "GET" if body is None else "POST"
    reply = httpx.request(
        method, closed_url + path, json=body, headers=AUTHORIZATION, timeout=TIMEOUT_S, trust_env=False
    )
    assert reply.status_code == status, reply.text


def test_wrong_key_behind_the_router_returns_401(closed_url: str) -> None:
    with (
        ollama.Client(backend_mode="vllm", vllm_urls=closed_url, vllm_api_key="another") as client,
        pytest.raises(ollama.ResponseError, match="VLLM_API_KEY") as raised,
    ):
        client.chat("smol", SKY)
    assert raised.value.status_code == 401


def test_router_does_not_change_embeddings(
    client_of: Callable[[str], ollama.Client], embed_url: str, embed_server: RunningServer
) -> None:
    texts = ["하늘은 파랗다.", "The sky is blue."]
    routed, direct = (
        client_of(base_url).embed("minilm", texts).embeddings for base_url in (embed_url, embed_server.url)
    )
    assert [pytest.approx(vector, abs=1e-6) for vector in direct] == routed


def test_router_drops_truncate_prompt_tokens_of_an_embedding_request(
    embed_url: str, embed_server: RunningServer
) -> None:
    request = {"model": "minilm", "input": "word " * 600, "truncate_prompt_tokens": -1}
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        routed, direct = (http.post(f"{url}/v1/embeddings", json=request) for url in (embed_url, embed_server.url))
    assert (direct.status_code, routed.status_code) == (200, 400)


def test_router_drops_continuous_usage_stats_of_a_stream(url: str, victim: ServerProcess) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    counted = []
    for base_url in (url, victim.url):
        request = {**CHAT, "stream": True, "stream_options": options}
        chat_url = f"{base_url}/v1/chat/completions"
        text = httpx.post(chat_url, json=request, headers=AUTHORIZATION, timeout=TIMEOUT_S).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        counted.append([bool(event.get("usage")) for event in events])
    routed, direct = counted
    assert all(direct)
    assert routed == [*(False for _ in routed[1:]), True]


class FakeReplica(ThreadingHTTPServer):
    """A small fake of a replica that replies with its own URL."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """May be called twice."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeReplica

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"replica": self.server.url}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake_replicas(installed: None) -> Iterator[dict[str, FakeReplica]]:
    """Two replicas, by URL."""
    replicas = {replica.url: replica for replica in (FakeReplica(), FakeReplica())}
    yield dict(replicas)
    for replica in replicas.values():
        replica.stop()


def answering_replica(url: str, body: dict[str, object] | None = None) -> str:
    """The URL of the replica that answers a request, or the text of the router's error."""
    method = "GET" if body is None else "POST"
    reply = httpx.request(method, url, json=body, timeout=TIMEOUT_S, trust_env=False)
    return str(reply.json()["replica"]) if reply.is_success else reply.text


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/embeddings", {"model": "minilm", "input": "Hello"})]
)
def test_router_answers_from_the_other_replica_when_one_stops(
    path: str, body: dict[str, object], fake_replicas: dict[str, FakeReplica]
) -> None:
    with router.running(list(fake_replicas), LOGS / "router-lone.log") as base_url:
        fake_replicas.pop(answering_replica(base_url + path, body)).stop()
        (other,) = fake_replicas
        assert [answering_replica(base_url + path, body) for _ in range(4)] == [other] * 4


def test_router_lists_models_from_the_other_replica_after_one_stops(
    fake_replicas: dict[str, FakeReplica],
) -> None:
    with router.running(list(fake_replicas), LOGS / "router-models.log") as base_url:
        fake_replicas.pop(answering_replica(f"{base_url}/v1/models")).stop()
        (other,) = fake_replicas
        assert eventually(lambda: answering_replica(f"{base_url}/v1/models") == other)


@dataclass
class Ended:
    """How one call ended."""

    after_kill: bool
    """Whether the call began after the replica was killed."""
    parts: int = 0
    error: Exception | None = None


class Load:
    """Three kinds of callers that call repeatedly, until each has made two calls after the kill."""

    CALLERS = 2
    """Callers of each kind."""

    def __init__(self, client: ollama.Client) -> None:
        self.killed = threading.Event()
        self._client = client
        self._openai = client.openai("smol").with_options(max_retries=0)
        self.ended: dict[str, list[Ended]] = {kind: [] for kind in ("streamed", "plain", "openai")}
        calls = (self._streamed, self._plain, self._openai_plain)
        self._threads = [
            threading.Thread(target=self._call_repeatedly, args=(call, caller, ended))
            for call, ended in zip(calls, self.ended.values(), strict=True)
            for caller in range(self.CALLERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        self._openai.close()
        assert not any(thread.is_alive() for thread in self._threads), "a call does not return"

    def _call_repeatedly(self, call: Callable[[Any, Ended], None], caller: int, ended: list[Ended]) -> None:
        number = after_kill = 0
        while after_kill < 2:
            this = Ended(self.killed.is_set())
            number, after_kill = number + 1, after_kill + this.after_kill
            # The first words differ, because the router sends all prompts with a common prefix to one replica.
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


def test_router_loses_no_unanswered_call_when_a_replica_is_killed_under_load(
    client_of: Callable[[str], ollama.Client], url: str, chat_server: RunningServer, victim: ServerProcess
) -> None:
    load = Load(client_of(url))
    load.start()
    assert eventually(lambda: running(victim.url) >= 2), f"{victim.url} gets no calls"
    assert victim.pid is not None
    os.killpg(victim.pid, signal.SIGKILL)
    load.killed.set()
    answered_before = answered(chat_server.url)
    load.finish()

    ended = [each for calls in load.ended.values() for each in calls]
    later = [each for each in ended if each.after_kill]
    assert [each.error for each in later if each.error] == [], "a call after the kill failed"
    # The server counts a request a moment after its reply.
    assert eventually(lambda: answered(chat_server.url) - answered_before >= len(later)), "not by the other replica"
    # A call that was running on the killed replica is retried unless the caller has received a part.
    assert [each.error for kind in ("plain", "openai") for each in load.ended[kind] if each.error] == []
    assert [each.error for each in load.ended["streamed"] if each.error and not each.parts] == []
    cut_off = [each.error for each in ended if each.error]
    assert [str(error) for error in cut_off if "unexpected EOF" not in str(error) or url not in str(error)] == []


def running(base_url: str) -> float:
    """Number of requests that a server works on."""
    return read(httpx.get(f"{base_url}/metrics", trust_env=False, timeout=TIMEOUT_S).text).sum(RUNNING) or 0


def answered(base_url: str) -> int:
    """Number of chat requests that a server has answered."""
    return sum(row.requests for row in metrics.answered(base_url) if row.path == "/v1/chat/completions")
