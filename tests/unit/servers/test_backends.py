"""Who may answer a call, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ollama import ResponseError

from ollama_compat import Profile, Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.exceptions import CircuitOpen, ServerUnreachable
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.servers.backends import Backend, Backends
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.servers.server import Server, Target
from tests.play import SECOND, StillClock, play, reply

A = "http://a:8001"
CLOUD = "gpt-oss:120b-cloud"


def dispatcher(serves: tuple[str, ...] = ("smol", "other", "Org/Other"), **settings: Any) -> Dispatcher:
    """A client of one server whose models are known."""
    made = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A,), **settings), StillClock())
    made.registry.servers[0].models = tuple(ModelCard(name) for name in serves)
    return made


def backends(**settings: Any) -> Backends:
    """The backends of that client."""
    return dispatcher(**settings).backends


def names(chain: Sequence[Backend]) -> list[tuple[str, str]]:
    return [(backend.name, backend.provider) for backend in chain]


def found(made: Dispatcher, backend: Backend, *tried: Server) -> Target | None:
    target: Target | None = play(made._find(backend, "/api/chat", tried, 0, None)).result
    return target


# The order


def test_without_a_chain_only_the_model_itself_answers() -> None:
    assert names(backends().chain("smol")) == [("smol", "vllm")]


def test_the_chain_comes_after_the_model_in_its_order() -> None:
    made = backends(vllm_failover={"smol": ("other", "ollama:qwen3:8b", CLOUD, "deepseek:deepseek-chat")})
    assert names(made.chain("smol")) == [
        ("smol", "vllm"),
        ("other", "vllm"),
        ("ollama:qwen3:8b", "ollama"),
        (f"ollama:{CLOUD}", "ollama"),
        ("deepseek:deepseek-chat", "deepseek"),
    ]


def test_a_stand_ins_own_chain_is_not_followed() -> None:
    made = backends(vllm_failover={"smol": "other", "other": "smol"})
    assert names(made.chain("smol")) == [("smol", "vllm"), ("other", "vllm")]


def test_a_cloud_model_is_ollamas_first() -> None:
    made = backends(vllm_failover={CLOUD: "smol"})
    assert names(made.chain(CLOUD)) == [(f"ollama:{CLOUD}", "ollama"), ("smol", "vllm")]


@pytest.mark.parametrize("name", ["smol", "SMOL", "smol:latest", "library/smol"])
def test_the_names_of_the_map_are_compared_as_ollama_does(name: str) -> None:
    assert backends(vllm_failover={"Smol": "other"}).fallbacks(name) == ("other",)


def test_a_colon_alone_makes_no_provider() -> None:
    made = backends(vllm_failover={"smol": "exaone3.5:7.8b"})
    assert names(made.chain("smol"))[1] == ("exaone3.5:7.8b", "vllm")


# Where each is


def test_a_model_on_vllm_is_where_it_is_served() -> None:
    made = dispatcher(vllm_model_map={"exaone": "Org/Other"}, vllm_failover={"smol": "exaone"})
    own, other = made.backends.chain("smol")
    server = made.registry.servers[0]
    assert found(made, own) == Target(server, ModelCard("smol"))
    assert found(made, other) == Target(server, ModelCard("Org/Other"))
    assert found(made, own, server) is None


def test_a_model_elsewhere_needs_no_learning() -> None:
    made = dispatcher(vllm_failover={"smol": ("ollama:qwen3:8b", "deepseek:deepseek-chat")})
    _, ollama, deepseek = made.backends.chain("smol")
    at_ollama, at_deepseek = found(made, ollama), found(made, deepseek)
    assert at_ollama is not None
    assert at_deepseek is not None
    assert (at_ollama.url, at_ollama.card.id) == ("ollama", "qwen3:8b")
    assert (at_deepseek.url, at_deepseek.card.id) == ("https://api.deepseek.com", "deepseek-chat")
    assert found(made, ollama, at_ollama.server) is None


def test_ollama_has_one_circuit_for_all_its_models() -> None:
    made = dispatcher(vllm_failover={"smol": "ollama:qwen3:8b", "other": CLOUD})
    one, two = (found(made, made.backends.chain(name)[1]) for name in ("smol", "other"))
    assert one is not None
    assert two is not None
    assert one.server is two.server


def test_while_its_circuit_is_open_it_is_not_asked() -> None:
    made = dispatcher(vllm_failover={"smol": "deepseek:deepseek-chat"})
    _, deepseek = made.backends.chain("smol")
    target = found(made, deepseek)
    assert target is not None
    for _ in range(FAILURES):
        target.server.record_failure(made.context.clock.ticks(), ServerUnreachable("boom"))
    with pytest.raises(CircuitOpen, match=r"https://api\.deepseek\.com"):
        found(made, deepseek)
    made.context.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    assert found(made, deepseek) is not None


def test_a_name_that_no_server_has() -> None:
    made = dispatcher()
    steps = made._find(made.backends.chain("nope")[0], "/api/chat", (), 0, None)
    with pytest.raises(ResponseError, match="model 'nope' not found") as caught:
        play(steps, reply({"data": [{"id": "smol"}]}))
    assert caught.value.status_code == 404


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_refused(name: str) -> None:
    with pytest.raises(ResponseError, match="model is required"):
        dispatcher()._chain("/api/chat", name)


# Caching


def test_chain_of_a_model_is_computed_once() -> None:
    made = dispatcher(vllm_failover={"smol": "other"})
    assert made._chain("/api/chat", "smol") is made._chain("/api/chat", "smol")


def test_chain_of_a_model_is_computed_again_when_a_profile_is_created() -> None:
    made = dispatcher()
    first = made._chain("/api/chat", "mine")
    made.resolver.store.put("mine", Profile.model_validate({"from": "other"}))
    assert (first[0].served, made._chain("/api/chat", "mine")[0].served) == ("mine", "other")


def test_names_that_callers_make_up_do_not_fill_the_memory() -> None:
    made = dispatcher()
    for number in range(3000):
        made._chain("/api/chat", f"made up {number}")
    assert len(made._chains) <= 1000


# The profile


PROFILES: dict[str, Any] = {
    "smol": {"from": "smol", "system": "asked", "parameters": {"temperature": 0.1}},
    "stand": {
        "from": "other",
        "system": "stands in",
        "parameters": {"temperature": 0.9, "top_k": 5},
        "thinking": {"default": True},
    },
    "bare": {"from": "other"},
}


def test_a_stand_in_behaves_as_the_model_that_was_asked_for_and_is_asked_as_its_own_kind() -> None:
    _, stand = backends(models=PROFILES, vllm_failover={"smol": "stand"}).chain("smol")
    assert stand.profile.system == "asked"
    assert stand.profile.parameters == {"temperature": 0.1, "top_k": 5}
    assert (stand.profile.from_, stand.profile.thinking.default) == ("other", True)


def test_what_the_model_leaves_open_is_the_stand_ins() -> None:
    _, stand = backends(models=PROFILES, vllm_failover={"bare": "stand"}).chain("bare")
    assert stand.profile.system == "stands in"
    assert stand.profile.parameters == {"temperature": 0.9, "top_k": 5}


@pytest.mark.parametrize("other", ["ollama:qwen3:8b", "deepseek:deepseek-chat"])
def test_elsewhere_the_profile_is_that_of_the_model_that_was_asked_for(other: str) -> None:
    _, stand = backends(models=PROFILES, vllm_failover={"smol": other}).chain("smol")
    assert (stand.profile.system, stand.profile.parameters) == ("asked", {"temperature": 0.1})
