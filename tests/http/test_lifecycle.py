"""Life cycle of a client: shared by threads and tasks, forked, used in successive event loops, closed, abandoned."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ollama as official
import pytest

import ollama_compat as ollama

from .network import CHAT, END, content_event
from .sockets import HOLD, PATIENCE_S, Pieces, Received, Server, serves, streamed, whole

TASKS = 300


def echo(request: Received) -> Pieces:
    """Replies to a chat with its own text; after "hold", the end waits for `Server.release`."""
    text = request.content["messages"][-1]["content"]
    return streamed(content_event(text), HOLD, END) if text == "hold" else streamed(content_event(text), END)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"/health": whole(b""), "/v1/models": serves("smol"), CHAT: echo}) as server:
        yield server


def chat(text: str, **changes: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [{"role": "user", "content": text}], **changes}


def made(kind: Callable[..., Any], server: Server, **settings: Any) -> Any:
    return kind(backend_mode="vllm", vllm_urls=server.url, trust_env=False, **settings)


def totals(client: Any) -> Any:
    return client.stats()["totals"]


# Shared


def test_client_shared_by_threads_counts_each_call_and_mixes_no_answers(server: Server) -> None:
    with made(ollama.Client, server) as client, ThreadPoolExecutor(64) as pool:
        texts = [str(number) for number in range(320)]
        answers = pool.map(lambda text: client.chat(**chat(text)).message.content, texts)
        assert list(answers) == texts
        counted = totals(client)
    assert (counted["calls"], counted["errors"], counted["in_flight"]) == (320, {}, 0)
    assert counted["tokens"] == {"in": 320 * 7, "out": 320 * 3}


async def test_client_shared_by_tasks_counts_each_call_and_mixes_no_answers(server: Server) -> None:
    async with made(ollama.AsyncClient, server, vllm_max_concurrent=20) as client:
        texts = [str(number) for number in range(TASKS)]
        answers = await asyncio.gather(*(client.chat(**chat(text)) for text in texts))
        assert [answer.message.content for answer in answers] == texts
        counted = totals(client)
    assert (counted["calls"], counted["errors"], counted["in_flight"], counted["waiting"]) == (TASKS, {}, 0, 0)
    assert counted["tokens"] == {"in": TASKS * 7, "out": TASKS * 3}
    assert server.most <= 20


@pytest.fixture
def second() -> Iterator[Server]:
    with Server({"/v1/models": serves("smol"), CHAT: echo}) as server:
        yield server


def discoveries(*servers: Server) -> list[int]:
    """How often each server received a discovery request."""
    return [[request.path for request in server.requests].count("/v1/models") for server in servers]


def test_concurrent_threads_share_one_discovery_request_per_server(server: Server, second: Server) -> None:
    urls = [server.url, second.url]
    together = threading.Barrier(64)

    def call(text: str) -> str | None:
        together.wait(PATIENCE_S)
        return str(client.chat(**chat(text)).message.content)

    with (
        ollama.Client(backend_mode="vllm", vllm_urls=urls, trust_env=False) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        texts = [str(number) for number in range(64)]
        assert list(pool.map(call, texts)) == texts
    assert discoveries(server, second) == [1, 1]


async def test_concurrent_tasks_share_one_discovery_request_per_server(server: Server, second: Server) -> None:
    urls = [server.url, second.url]
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=urls, trust_env=False) as client:
        texts = [str(number) for number in range(TASKS)]
        answers = await asyncio.gather(*(client.chat(**chat(text)) for text in texts))
    assert [answer.message.content for answer in answers] == texts
    assert discoveries(server, second) == [1, 1]
    assert min(len(server.posts(CHAT)), len(second.posts(CHAT))) > TASKS * 0.4, "both work"


async def test_next_task_takes_over_when_the_discovering_task_is_cancelled(server: Server) -> None:
    server.answers["/v1/models"] = (HOLD, *serves("smol"))
    async with made(ollama.AsyncClient, server) as client:
        calls = [asyncio.create_task(client.chat(**chat(str(number)))) for number in range(20)]
        await asyncio.to_thread(server.until, lambda: discoveries(server) == [1])
        assert calls[0].cancel()
        await asyncio.to_thread(server.until, lambda: discoveries(server) == [2])
        server.release(2)  # the reply of the cancelled call holds too
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.message.content for answer in answers[1:]] == [str(number) for number in range(1, 20)]
    assert discoveries(server) == [2]


# asyncio and socket warn about connections that the end of a loop leaves open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_async_client_works_in_successive_event_loops(server: Server) -> None:
    client = made(ollama.AsyncClient, server, vllm_max_concurrent=1)

    async def answer(text: str) -> str:
        return str((await client.chat(**chat(text))).message.content)

    async def last() -> str:
        async with client:
            return await answer("three")

    assert [asyncio.run(answer("one")), asyncio.run(answer("two")), asyncio.run(last())] == ["one", "two", "three"]
    assert totals(client)["calls"] == 3
    gc.collect()


# Forked

# From Python 3.12 on, a fork in a process with several threads gives this warning.
FORK_FLAGS = ("-W", "ignore:This process:DeprecationWarning")

FORKED = """
import os, sys
import ollama_compat as ollama

def chat(text, **changes):
    return client.chat("smol", [{"role": "user", "content": text}], **changes)

client = ollama.Client(backend_mode="vllm", vllm_urls=sys.argv[1], vllm_max_concurrent=2, trust_env=False)
chat("parent before")
stream = chat("hold", stream=True)
assert next(stream).message.content == "hold"
child = os.fork()
if not child:
    assert client.stats()["totals"]["calls"] == 0, client.stats()
    assert client.stats()["totals"]["in_flight"] == 0
    assert client.health(10)["status"] == "healthy"
    both = [chat("child", stream=True), chat("child", stream=True)]
    assert [next(one).message.content for one in both] == ["child", "child"]  # the parent's stream holds no slot
    for one in both:
        for _ in one:
            pass
    assert client.stats()["totals"]["calls"] == 2
    if sys.version_info[:3] == (3, 13, 0):  # it crashes when a generator with an open httpx stream is collected at exit
        os._exit(7)
    sys.exit(7)  # the interpreter shuts down and collects the parent's stream
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert client.stats()["totals"]["in_flight"] == 1
chat("parent after")
chat("release")
*_, last = stream
assert last.done
assert client.stats()["totals"]["calls"] == 4
"""


def run(script: str, url: str) -> None:
    """Runs a script in a separate process, so that its forks do not affect the tests."""
    command = [sys.executable, *FORK_FLAGS, "-c", script, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_forked_child_has_its_own_connections_slots_and_counts(server: Server) -> None:
    def releasing(request: Received) -> Pieces:
        if request.content["messages"][-1]["content"] == "release":
            server.release(1)
        return echo(request)

    server.answers[CHAT] = releasing
    run(FORKED, server.url)
    texts = [(request.content["messages"][-1]["content"], request.connection) for request in server.posts(CHAT)]
    childs = {connection for text, connection in texts if text == "child"}
    childs |= {request.connection for request in server.requests if request.path == "/health"}
    assert childs.isdisjoint(connection for text, connection in texts if text != "child")


FORKED_THREADS = """
import os, sys, threading
import ollama as official
import ollama_compat as ollama

client = ollama.Client(backend_mode="vllm", vllm_urls=sys.argv[1], trust_env=False)

def chat(text):
    return client.chat("smol", [{"role": "user", "content": text}])

chat("parent")
child = os.fork()
if not child:
    making, others = threading.Event(), threading.Event()
    made = official.Client.__init__

    def slowly(self, *args, **kwargs):
        making.set()
        others.wait(1)  # times out: the second thread waits for the new connections
        made(self, *args, **kwargs)

    official.Client.__init__ = slowly
    answers = []
    first = threading.Thread(target=lambda: answers.append(chat("child")))
    first.start()
    making.wait()
    second = threading.Thread(target=lambda: (answers.append(chat("child")), others.set()))
    second.start()
    first.join()
    second.join()
    assert len(answers) == 2
    assert client.stats()["totals"]["calls"] == 2, client.stats()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_threads_of_a_forked_child_use_no_connection_of_the_parent(
    server: Server,
) -> None:
    run(FORKED_THREADS, server.url)
    texts = [(request.content["messages"][-1]["content"], request.connection) for request in server.posts(CHAT)]
    assert [text for text, _ in texts] == ["parent", "child", "child"]
    assert {connection for text, connection in texts if text == "child"}.isdisjoint({texts[0][1]})


FORKED_ASYNC = """
import asyncio, os, sys
import ollama_compat as ollama

client = ollama.AsyncClient(backend_mode="vllm", vllm_urls=sys.argv[1], vllm_limits="memory://", trust_env=False)

async def main():
    async with client:
        assert (await client.chat("smol", [{"role": "user", "content": "hi"}])).message.content == "hi"
        assert client.stats()["totals"]["calls"] == 1

child = os.fork()
asyncio.run(main())
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_async_client_created_before_a_fork_works_in_both_processes(server: Server) -> None:
    run(FORKED_ASYNC, server.url)
    assert len({request.connection for request in server.posts(CHAT)}) == 2


FORKED_DURING_DISCOVERY = """
import os, sys, threading
import ollama_compat as ollama

def chat(text):
    return client.chat("smol", [{"role": "user", "content": text}]).message.content

client = ollama.Client(backend_mode="vllm", vllm_urls=sys.argv[1], trust_env=False)
discovering = threading.Thread(target=chat, args=("parent",))
discovering.start()
sys.stdin.readline()  # the discovery request is in flight
child = os.fork()
assert chat("child" if not child else "parent too") in ("child", "parent too")
if not child:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
discovering.join()
"""


def test_forked_child_does_not_wait_for_a_discovery_of_its_parent(server: Server) -> None:
    server.answers["/v1/models"] = (HOLD, *serves("smol"))
    script = [sys.executable, *FORK_FLAGS, "-c", FORKED_DURING_DISCOVERY, server.url]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        server.until(lambda: discoveries(server) == [1])
        assert process.stdin is not None
        process.stdin.write("fork\n")
        process.stdin.flush()
        server.until(lambda: discoveries(server) == [2])
        server.release(2)
        _, stderr = process.communicate(timeout=2 * PATIENCE_S)
    assert (process.returncode, stderr) == (0, "")
    assert discoveries(server) == [2], "once in each process"


FORKED_AMID_CALLS = """
import faulthandler, os, sys, threading
import ollama_compat as ollama

url, threads, forks, patience = sys.argv[1], 6, 12, float(sys.argv[2])
client = ollama.Client(
    backend_mode="vllm", vllm_urls=url, vllm_limits="memory://", vllm_chat_rate="1000000/second",
    vllm_max_concurrent=4, trust_env=False,
)

def chat(text, **changes):
    return client.chat("smol", [{"role": "user", "content": text}], **changes)

ended, failures = threading.Event(), []

def caller():
    while not ended.is_set():
        try:
            assert chat("parent").message.content == "parent"
            assert [part.message.content for part in chat("parent", stream=True)] == ["parent", ""]
            client.stats()
        except BaseException as error:
            failures.append(error)
            raise

chat("parent")  # all modules are imported
callers = [threading.Thread(target=caller) for _ in range(threads)]
for each in callers:
    each.start()
for _ in range(forks):
    calls = client.stats()["totals"]["calls"]
    while client.stats()["totals"]["calls"] == calls:  # the fork comes in the middle of other calls
        pass
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(patience, exit=True)  # a deadlock: prints where, and ends the child
        assert chat("child").message.content == "child"
        assert [part.message.content for part in chat("child", stream=True)] == ["child", ""]
        assert client.stats()["totals"]["calls"] == 2
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 7, code
ended.set()
for each in callers:
    each.join()
assert not failures
"""


def test_forked_child_answers_when_other_threads_of_the_parent_are_in_calls(server: Server) -> None:
    command = [sys.executable, *FORK_FLAGS, "-c", FORKED_AMID_CALLS, server.url, str(PATIENCE_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


FORKED_AMID_THE_FIRST_USE = """
import os, signal, sys, threading
import ollama_compat as ollama
inside, ended = threading.Event(), threading.Event()

def first_use():
    with ollama._making:  # what the first call of a module function does
        inside.set()
        ended.wait()

thread = threading.Thread(target=first_use)
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(int(sys.argv[1]))
    ollama.stats()
    os._exit(0)
_, status = os.waitpid(child, 0)
ended.set()
thread.join()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_forked_child_can_use_the_module_functions_that_a_thread_of_the_parent_uses_first() -> None:
    command = [sys.executable, *FORK_FLAGS, "-c", FORKED_AMID_THE_FIRST_USE, str(int(PATIENCE_S))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Abandoned


def assert_released(server: Server, client: Any) -> None:
    """The server saw the connection close, and the client counts no call in flight."""
    server.until(lambda: server.disconnects == 1)
    server.until(lambda: server.open == 0)
    assert (totals(client)["in_flight"], totals(client)["cancelled"]) == (0, 1)
    assert [known.in_flight for known in client._dispatcher.registry.servers] == [0]


def closed(stream: Any) -> None:
    stream.close()


def error_in_the_loop(stream: Any) -> None:
    def read() -> None:
        for _ in stream:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()


def forgotten(_: Any) -> None:
    pass


@pytest.mark.parametrize("leave", [closed, error_in_the_loop, forgotten])
def test_abandoned_stream_closes_its_connection(server: Server, leave: Callable[[Any], None]) -> None:
    with made(ollama.Client, server, vllm_max_concurrent=1, timeout=PATIENCE_S) as client:
        stream = client.chat(**chat("hold", stream=True))
        if leave is not error_in_the_loop:
            next(stream)
        leave(stream)
        del stream
        gc.collect()
        assert_released(server, client)
        assert client.chat(**chat("next")).message.content == "next"


async def aclosed(stream: Any) -> None:
    await stream.aclose()


async def forgotten(stream: Any) -> None:
    pass


async def cancelled(stream: Any) -> None:
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("leave", [aclosed, forgotten, cancelled])
async def test_abandoned_async_stream_closes_its_connection(server: Server, leave: Any) -> None:
    async with made(ollama.AsyncClient, server, vllm_max_concurrent=1, timeout=PATIENCE_S) as client:
        stream = await client.chat(**chat("hold", stream=True))
        await anext(stream)
        await leave(stream)
        del stream
        gc.collect()
        await asyncio.to_thread(server.until, lambda: server.disconnects == 1)
        assert_released(server, client)
        assert (await client.chat(**chat("next"))).message.content == "next"


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_call_closes_its_connection(server: Server, stream: bool) -> None:
    async with made(ollama.AsyncClient, server, vllm_max_concurrent=1, timeout=PATIENCE_S) as client:

        async def called() -> None:
            answer = await client.chat(**chat("hold", stream=stream))
            async for _ in answer:
                pass

        call = asyncio.create_task(called())
        await asyncio.to_thread(server.until, lambda: server.in_flight == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(assert_released, server, client)
        assert (await client.chat(**chat("next"))).message.content == "next"


def test_end_of_an_event_loop_closes_its_streams(server: Server) -> None:
    client = made(ollama.AsyncClient, server, vllm_max_concurrent=1, timeout=PATIENCE_S)
    kept = []

    async def leave() -> None:
        kept.append(await client.chat(**chat("hold", stream=True)))
        await anext(kept[0])

    asyncio.run(leave())
    assert_released(server, client)
    asyncio.run(client.close())


# Closed


def test_closed_client_behaves_as_the_official_one(server: Server) -> None:
    kinds = {official.Client: {"host": server.url, "trust_env": False}, ollama.Client: {}}
    errors = []
    for kind, settings in kinds.items():
        client = kind(**settings) if settings else made(kind, server)
        with client as entered:
            assert entered is client
        with pytest.raises(Exception, match="closed") as caught:
            client.chat(**chat("hi"))
        errors.append((type(caught.value), str(caught.value)))
        client.close()  # again
    assert errors[0] == errors[1]


async def test_closed_async_client_behaves_as_the_official_one(server: Server) -> None:
    kinds = {official.AsyncClient: {"host": server.url, "trust_env": False}, ollama.AsyncClient: {}}
    errors = []
    for kind, settings in kinds.items():
        client = kind(**settings) if settings else made(kind, server)
        async with client as entered:
            assert entered is client
        with pytest.raises(Exception, match="closed") as caught:
            await client.chat(**chat("hi"))
        errors.append((type(caught.value), str(caught.value)))
        await client.close()
    assert errors[0] == errors[1]


def test_closing_a_client_closes_its_connections(server: Server) -> None:
    client = made(ollama.Client, server)
    client.chat(**chat("hi"))
    assert server.open == 1
    client.close()
    server.until(lambda: server.open == 0)


# trio


def test_async_client_works_on_trio(server: Server) -> None:
    trio = pytest.importorskip("trio", reason="trio is not installed")
    texts = [str(number) for number in range(20)]
    answers: dict[str, str | None] = {}

    async def ask(client: Any, text: str) -> None:
        answers[text] = (await client.chat(**chat(text))).message.content

    async def main() -> None:
        async with made(ollama.AsyncClient, server, vllm_limits="memory://", vllm_max_concurrent=3) as client:
            async with trio.open_nursery() as nursery:
                for text in texts:
                    nursery.start_soon(ask, client, text)
            with trio.move_on_after(0.2):
                await client.chat(**chat("hold"))
            assert (await client.health())["status"] == "healthy"
            assert (totals(client)["in_flight"], totals(client)["cancelled"]) == (0, 1)

    trio.run(main)
    assert answers == {text: text for text in texts}
    assert server.most <= 3
