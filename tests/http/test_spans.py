"""The span of a call is the current span while the call runs, and only then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import ollama_compat as ollama
from ollama_compat.otel import OpenTelemetry

from .caller import Caller
from .network import CHAT, END, URL, Network, content_event, stream

HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}


def current() -> int:
    """The id of the current span; 0 without one."""
    return trace.get_current_span().get_span_context().span_id


class Watched:
    """A client with OpenTelemetry, and the current span at each of its requests."""

    def __init__(self, connect: Callable[..., Caller], network: Network) -> None:
        self.exporter, self.tracers = InMemorySpanExporter(), TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.current: list[int] = []
        self._below = network.transport()
        self.caller = connect(transport=httpx.MockTransport(self._sent))
        self.caller.client.observe(OpenTelemetry(self.tracers, MeterProvider()))

    def _sent(self, request: httpx.Request) -> httpx.Response:
        self.current.append(current())
        return self._below.handler(request)  # type: ignore[return-value]

    @property
    def current_after(self) -> int:
        """The current span of the caller."""

        async def awaited() -> int:
            return current()

        return current() if isinstance(self.caller.client, ollama.Client) else self.caller.wait_for(awaited())

    @property
    def spans(self) -> list[int]:
        """The spans of the calls that have ended."""
        return [span.context.span_id for span in self.exporter.get_finished_spans() if span.context is not None]


@pytest.fixture
def watched(connect: Callable[..., Caller], network: Network, caplog: pytest.LogCaptureFixture) -> Iterator[Watched]:
    yield Watched(connect, network)
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


@pytest.mark.parametrize("streamed", [False, True])
def test_every_request_of_a_call_is_sent_within_its_span(watched: Watched, streamed: bool) -> None:
    watched.caller.chat(**HI, stream=streamed)
    assert watched.current == watched.spans * 2, "/v1/models and the chat"
    assert watched.current_after == 0


def test_each_call_has_its_own_span(watched: Watched) -> None:
    for _ in range(2):
        watched.caller.chat(**HI)
    one, two = watched.spans
    assert watched.current == [one, one, two]


def test_span_of_the_caller_is_current_between_the_parts_of_a_stream(connect: Any, network: Network) -> None:
    watched = Watched(connect, network)
    seen = []

    def read(client: ollama.Client) -> None:
        with watched.tracers.get_tracer("service").start_as_current_span("service") as own:
            for _ in client.chat(**HI, stream=True):
                seen.append(current() == own.get_span_context().span_id)

    async def aread(client: ollama.AsyncClient) -> None:
        with watched.tracers.get_tracer("service").start_as_current_span("service") as own:
            async for _ in await client.chat(**HI, stream=True):
                seen.append(current() == own.get_span_context().span_id)

    client = watched.caller.client
    if isinstance(client, ollama.Client):
        read(client)
    else:
        watched.caller.wait_for(aread(client))
    assert seen == [True] * 3
    assert watched.current == watched.spans[:1] * 2


def test_no_span_is_current_after_a_closed_stream(watched: Watched) -> None:
    stream = watched.caller.open("chat", **HI)
    watched.caller.next(stream)
    watched.caller.close(stream)
    assert watched.current_after == 0
    assert len(watched.spans) == 1


def test_no_span_is_current_after_a_failed_call(watched: Watched, network: Network) -> None:
    network.on(URL + CHAT, stream(content_event("x"), httpx.ReadError("reset")))
    with pytest.raises(ollama.ResponseError):
        watched.caller.chat(**HI)
    assert watched.current_after == 0
    assert watched.current == watched.spans * 4, "discovery, and three attempts"


async def test_stream_may_be_continued_in_another_task(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=network.transport()) as client:
        client.observe(OpenTelemetry(TracerProvider(), MeterProvider()))
        stream = await client.chat(**HI, stream=True)
        while await asyncio.create_task(_next(stream)) is not None:
            assert current() == 0
    assert caplog.records == []


async def test_concurrent_tasks_have_separate_spans(network: Network) -> None:
    seen: dict[bytes, int] = {}
    transport = httpx.MockTransport(_Slow(network, seen).sent)
    client = ollama.AsyncClient(backend_mode="vllm", vllm_urls=URL, transport=transport)
    async with client:
        client.observe(OpenTelemetry(TracerProvider(), MeterProvider()))
        await client.list()
        await asyncio.gather(*(client.chat("smol", [{"role": "user", "content": str(n)}]) for n in range(20)))
    assert len(set(seen.values())) == len(seen) == 20


class _Slow:
    """A network in which the tasks alternate."""

    def __init__(self, network: Network, seen: dict[bytes, int]) -> None:
        self._below, self._seen = network.transport(), seen

    async def sent(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.method == "POST":
            self._seen[request.content] = current()
        return self._below.handler(request)  # type: ignore[return-value]


async def _next(stream: Any) -> Any:
    return await anext(stream, None)


def test_log_lines_of_a_call_are_written_within_its_span(
    watched: Watched, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    within = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            within.append(current())

    handler = Noting()
    logger = logging.getLogger("ollama_compat.dispatch")
    logger.addHandler(handler)
    try:
        network.on(URL + CHAT, httpx.ConnectError("refused"), stream(content_event("x"), END))
        watched.caller.chat(**HI)
    finally:
        logger.removeHandler(handler)
    assert within == watched.spans
