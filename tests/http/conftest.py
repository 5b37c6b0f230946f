"""Fixtures. `connect(**settings)` creates a `Client`, and in the second run of a test an `AsyncClient`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import ollama_compat as ollama
from ollama_compat.servers import retry
from tests.unit.conftest import own_environment  # noqa: F401

from .caller import Caller
from .network import CHAT, URL, Network, chat_reply
from .sockets import PATIENCE_S


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries do not wait."""
    monkeypatch.setattr(retry, "backoff", lambda _: 0.0)


@pytest.fixture(autouse=True)
def generous_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is not an error: connecting and discovery may take as long as a test waits for anything."""
    monkeypatch.setattr("ollama_compat.transport.driver.CONNECT_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr("ollama_compat.servers.registry.DISCOVERY_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def network() -> Network:
    """One vLLM server that serves `smol` and answers every chat with "Hello"."""
    return Network().serves(URL, "smol").on(URL + CHAT, chat_reply("Hel", "lo"))


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, network: Network) -> Iterator[Callable[..., Caller]]:
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner()) if request.param == "async" else None
        kind = ollama.Client if runner is None else ollama.AsyncClient

        def make(**settings: Any) -> Caller:
            own = {} if "settings" in settings else {"backend_mode": "vllm", "vllm_urls": URL}
            given = {**own, "transport": network.transport(), **settings}
            caller = Caller(kind(**given), runner)
            stack.callback(caller.close)
            return caller

        yield make


@pytest.fixture
def caller(connect: Callable[..., Caller]) -> Caller:
    """A client of the one server."""
    return connect()
