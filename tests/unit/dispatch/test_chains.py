"""The backends of a model, and the server that the dispatcher finds for each."""

from __future__ import annotations

from typing import Any

import pytest
from ollama import ResponseError

from ollama_compat import Profile, Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.exceptions import CircuitOpen, ServerUnreachable
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.servers.backends import Backend
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.servers.server import Server, Target
from tests.play import SECOND, StillClock, play, reply

A = "http://a:8001"
CLOUD = "gpt-oss:120b-cloud"


def dispatcher_of(serves: tuple[str, ...] = ("smol", "other", "Org/Other"), **settings: Any) -> Dispatcher:
    """A dispatcher with one server whose models it knows."""
    dispatcher = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A,), **settings), StillClock())
    dispatcher.registry.servers[0].models = tuple(ModelCard(name) for name in serves)
    return dispatcher


def find(dispatcher: Dispatcher, backend: Backend, *tried: Server) -> Target | None:
    """The server of a backend for the next attempt."""
    target: Target | None = play(dispatcher._find(backend, "/api/chat", tried, 0, None)).result
    return target


# Servers


def test_vllm_backend_is_the_server_that_serves_its_model() -> None:
    dispatcher = dispatcher_of(vllm_model_map={"exaone": "Org/Other"}, vllm_failover={"smol": "exaone"})
    own, other = dispatcher.backends.chain("smol")
    server = dispatcher.registry.servers[0]
    assert find(dispatcher, own) == Target(server, ModelCard("smol"))
    assert find(dispatcher, other) == Target(server, ModelCard("Org/Other"))
    assert find(dispatcher, own, server) is None


def test_ollama_and_provider_need_no_discovery() -> None:
    dispatcher = dispatcher_of(vllm_failover={"smol": ("ollama:qwen3:8b", "deepseek:deepseek-chat")})
    _, ollama, deepseek = dispatcher.backends.chain("smol")
    at_ollama, at_deepseek = find(dispatcher, ollama), find(dispatcher, deepseek)
    assert at_ollama is not None
    assert at_deepseek is not None
    assert (at_ollama.url, at_ollama.card.id) == ("ollama", "qwen3:8b")
    assert (at_deepseek.url, at_deepseek.card.id) == ("https://api.deepseek.com", "deepseek-chat")
    assert find(dispatcher, ollama, at_ollama.server) is None


def test_models_of_ollama_share_one_circuit() -> None:
    dispatcher = dispatcher_of(vllm_failover={"smol": "ollama:qwen3:8b", "other": CLOUD})
    one, two = (find(dispatcher, dispatcher.backends.chain(name)[1]) for name in ("smol", "other"))
    assert one is not None
    assert two is not None
    assert one.server is two.server


def test_provider_with_open_circuit_raises_circuit_open() -> None:
    dispatcher = dispatcher_of(vllm_failover={"smol": "deepseek:deepseek-chat"})
    _, deepseek = dispatcher.backends.chain("smol")
    target = find(dispatcher, deepseek)
    assert target is not None
    for _ in range(FAILURES):
        target.server.record_failure(dispatcher.context.clock.ticks(), ServerUnreachable("boom"))
    with pytest.raises(CircuitOpen, match=r"https://api\.deepseek\.com"):
        find(dispatcher, deepseek)
    dispatcher.context.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    assert find(dispatcher, deepseek) is not None


def test_unknown_model_raises_model_not_found() -> None:
    dispatcher = dispatcher_of()
    steps = dispatcher._find(dispatcher.backends.chain("nope")[0], "/api/chat", (), 0, None)
    with pytest.raises(ResponseError, match="model 'nope' not found") as caught:
        play(steps, reply({"data": [{"id": "smol"}]}))
    assert caught.value.status_code == 404


@pytest.mark.parametrize("name", ["", " "])
def test_empty_model_name_is_refused(name: str) -> None:
    with pytest.raises(ResponseError, match="model is required"):
        dispatcher_of()._chain("/api/chat", name)


# Caching


def test_chain_is_computed_once() -> None:
    dispatcher = dispatcher_of(vllm_failover={"smol": "other"})
    assert dispatcher._chain("/api/chat", "smol") is dispatcher._chain("/api/chat", "smol")


def test_chain_is_computed_again_when_profile_is_created() -> None:
    dispatcher = dispatcher_of()
    first = dispatcher._chain("/api/chat", "mine")
    dispatcher.resolver.store.put("mine", Profile.model_validate({"from": "other"}))
    assert (first[0].served, dispatcher._chain("/api/chat", "mine")[0].served) == ("mine", "other")


def test_number_of_cached_chains_is_bounded() -> None:
    dispatcher = dispatcher_of()
    for number in range(3000):
        dispatcher._chain("/api/chat", f"unknown {number}")
    assert len(dispatcher._chains) <= 1000
