"""Real connections: refused, cut, silent, slow."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import ollama_compat as ollama
from ollama_compat import ResponseError

from .caller import Caller
from .network import CHAT, RECORDED, URL, Network, chat_reply, content_event, stream
from .sockets import http, serving, unreachable_url

Connect = Callable[..., Caller]
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
MODELS = http(b'{"data": [{"id": "smol", "max_model_len": 2048}]}')


@pytest.fixture
def over_sockets(connect: Connect) -> Connect:
    """`connect` to a real server."""
    return lambda url, **settings: connect(vllm_urls=url, transport=None, trust_env=False, **settings)


@pytest.fixture
def unreachable() -> Iterator[str]:
    with unreachable_url() as url:
        yield url


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat", HI),
    ("chat", {**HI, "stream": True}),
    ("generate", {"model": "smol", "prompt": "hi"}),
    ("embed", {"model": "smol", "input": "hi"}),
    ("list", {}),
    ("show", {"model": "smol"}),
]


@pytest.mark.parametrize("caught_as", [ConnectionError, httpx.ConnectError])
@pytest.mark.parametrize(("method", "arguments"), CALLS)
def test_connection_error_has_the_types_of_the_official_client(
    over_sockets: Connect, unreachable: str, method: str, arguments: Any, caught_as: type[Exception]
) -> None:
    with pytest.raises(caught_as):
        getattr(over_sockets(unreachable), method)(**arguments)


def test_connection_error_names_server_model_and_variable(over_sockets: Connect, unreachable: str) -> None:
    with pytest.raises(ConnectionError) as caught:
        over_sockets(unreachable).chat(**HI)
    assert str(caught.value).startswith(f"Failed to connect to the vLLM server at {unreachable} for model 'smol': ")
    assert f"GET {unreachable}/health" in str(caught.value)
    assert "VLLM_URLS" in str(caught.value)


def test_unknown_host_raises_connection_error(over_sockets: Connect) -> None:
    with pytest.raises(ConnectionError, match=r"http://no-such-host.invalid:8001"):
        over_sockets("no-such-host.invalid:8001").chat(**HI)


def test_answer_arrives_over_a_socket(over_sockets: Connect) -> None:
    with serving({"/v1/models": MODELS, CHAT: http(RECORDED)}) as url:
        assert over_sockets(url).chat(**HI).message.content == "The capital of France is Paris"


@pytest.mark.parametrize(
    "cut",
    [
        *(b"", b"HTTP/1.1 200", http(b"", chunked=True)[:-9], http(content_event("Hi"))[:-9]),
        *(http(content_event("Hi"), chunked=True), http(content_event("Hi"), chunked=True)[:-9]),
    ],
    ids=range(6),
)
def test_cut_connection_raises_the_error_of_a_dead_ollama(over_sockets: Connect, cut: bytes) -> None:
    with serving({"/v1/models": MODELS, CHAT: cut}) as url, pytest.raises(ResponseError) as caught:
        over_sockets(url).chat(**HI)
    assert caught.value.error.startswith("an error was encountered while running the model: unexpected EOF")
    assert url in caught.value.error
    assert caught.value.status_code == -1


def test_stream_cut_in_a_chunk_keeps_the_parts_that_were_received(over_sockets: Connect) -> None:
    with serving({"/v1/models": MODELS, CHAT: http(content_event("Hi"), chunked=True)}) as url:
        caller = over_sockets(url)
        parts, error = caller.until_error(caller.open("chat", **HI))
    assert [part.message.content for part in parts] == ["Hi"]
    assert isinstance(error, ResponseError)


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 OK\r\n\r\n"]
)
def test_reply_that_is_not_http_raises_error_that_names_the_server(over_sockets: Connect, garbage: bytes) -> None:
    with serving({"/v1/models": garbage}) as url, pytest.raises((ResponseError, ConnectionError), match=url):
        over_sockets(url).chat(**HI)


def test_silent_server_raises_timeout_that_names_it(over_sockets: Connect) -> None:
    with serving({"/v1/models": MODELS, CHAT: None}) as url, pytest.raises(httpx.ReadTimeout, match=url):
        over_sockets(url, timeout=1).chat(**HI)


def test_discovery_times_out_when_the_server_is_silent(over_sockets: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_compat.servers.registry.DISCOVERY_TIMEOUT_S", 0.2)
    with serving({"/v1/models": None}) as url, pytest.raises((ConnectionError, httpx.TimeoutException), match=url):
        over_sockets(url).chat(**HI)


@pytest.mark.parametrize("key", ["", " "])
def test_blank_key_is_no_key(over_sockets: Connect, key: str) -> None:
    with serving({"/v1/models": MODELS, CHAT: http(RECORDED)}) as url:
        assert over_sockets(url, vllm_api_key=key).chat(**HI).done


# Limits of the process

WITHOUT_FILES = """
import asyncio, os, resource, sys
import ollama_compat as ollama

if sys.argv[2] == "sync":
    client, run = ollama.Client(vllm_urls=sys.argv[1], backend_mode="vllm", trust_env=False), lambda answer: answer
else:
    client, run = ollama.AsyncClient(vllm_urls=sys.argv[1], backend_mode="vllm", trust_env=False), asyncio.Runner().run

def ask(known):
    if not known:
        client._dispatcher.registry.forget(client._dispatcher.registry.servers[0])
    try:
        return run(call()) if sys.argv[2] == "async" else client.chat(*question)
    except ConnectionError as error:
        return str(error)

async def call():
    return await client.chat(*question)

question = "smol", [{"role": "user", "content": "hi"}]
assert ask(True).done  # all modules are imported, and no connection stays open
open_files = len(os.listdir("/proc/self/fd")) - 1  # the listing opens one
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard))
texts = [ask(known) for known in [True] * 8 + [False] * 8]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for text in texts:
    assert text.startswith("This process cannot open a connection to the vLLM server at " + sys.argv[1]), text
    assert "Too many open files" in text, text
assert ask(True).done, "no circuit is open"
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_process_without_free_file_descriptors_gets_an_error_and_no_circuit_opens(kind: str) -> None:
    with serving({"/v1/models": MODELS, CHAT: http(RECORDED)}) as url:
        command = [sys.executable, "-c", WITHOUT_FILES, url, kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Many at once, and the end of a client


async def test_concurrent_calls_each_get_their_own_answer(network: Network) -> None:
    network.on(URL + CHAT, *(chat_reply(str(i)) for i in range(50)))
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
        answers = await asyncio.gather(*(client.chat(**HI) for _ in range(50)))
    assert sorted(int(answer.message.content or "") for answer in answers) == list(range(50))


async def test_closed_async_stream_leaves_no_task_and_no_connection(network: Network) -> None:
    network.on(URL + CHAT, chat_reply("a", "b", "c"))
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
        parts = await client.chat(**HI, stream=True)
        await anext(parts)
        await parts.aclose()
        assert network.streams[-1].closed
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelled_call_is_not_counted_as_outstanding(network: Network) -> None:
    never = asyncio.Event()

    async def silent(request: httpx.Request) -> httpx.Response:
        await never.wait()
        raise AssertionError

    transport = httpx.MockTransport(lambda request: silent(request) if request.method == "POST" else _models())
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=transport) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.chat(**HI), 0.05)
        assert [server.in_flight for server in client._dispatcher.registry.servers] == [0]


def _models() -> httpx.Response:
    return httpx.Response(200, json={"data": [{"id": "smol"}]})


def test_plain_call_has_released_its_connection_when_it_returns(network: Network) -> None:
    with ollama.Client(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
        client.chat(**HI)
        assert network.streams[-1].closed
        assert [server.in_flight for server in client._dispatcher.registry.servers] == [0]


def test_failed_call_has_released_its_connection_while_its_error_is_kept(network: Network) -> None:
    network.on(URL + CHAT, stream(content_event("a")))
    with ollama.Client(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
        with pytest.raises(ResponseError) as kept:
            client.chat(**HI)
        assert network.streams[-1].closed
        assert [server.in_flight for server in client._dispatcher.registry.servers] == [0]
    del kept


def test_unread_streams_cause_no_warning(network: Network, recwarn: pytest.WarningsRecorder) -> None:
    async def abandon() -> None:
        async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
            await client.chat(**HI, stream=True)
            await anext(await client.chat(**HI, stream=True))

    asyncio.run(abandon())
    gc.collect()
    assert recwarn.list == []
