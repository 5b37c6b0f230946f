"""Who may answer a call, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from ollama import ResponseError

from ollama_compat import Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.exceptions import CircuitOpen, ServerUnreachable
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.passthrough import passthrough
from ollama_compat.servers.backends import Backend, Backends
from ollama_compat.servers.circuit_breaker import FAILURES, OPEN_S
from ollama_compat.servers.registry import Server, Target
from tests.play import SECOND, StillClock, play, reply

A = "http://a:8001"
CLOUD = "gpt-oss:120b-cloud"


def routes(serves: tuple[str, ...] = ("smol", "other", "Org/Other"), **settings: Any) -> Backends:
    """The routes of a client of one server, of which it is known what it serves."""
    made = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(A,), **settings), StillClock()).routes
    made.fleet.servers[0].cards = tuple(ModelCard(name) for name in serves)
    return made


def told(found: list[Backend]) -> list[tuple[str, str]]:
    return [(route.name, route.provider) for route in found]


def found(route: Backend, *avoid: Server) -> Target | None:
    target: Target | None = play(route.find(avoid, 0, None)).result
    return target


# The order


def test_without_a_chain_only_the_model_itself_answers() -> None:
    assert told(routes().of("/api/chat", "smol")) == [("smol", "vllm")]


def test_the_chain_comes_after_the_model_in_its_order() -> None:
    made = routes(vllm_failover={"smol": ("other", "ollama:qwen3:8b", CLOUD, "deepseek:deepseek-chat")})
    assert told(made.of("/api/chat", "smol")) == [
        ("smol", "vllm"),
        ("other", "vllm"),
        ("ollama:qwen3:8b", "ollama"),
        (f"ollama:{CLOUD}", "ollama"),
        ("deepseek:deepseek-chat", "deepseek"),
    ]


def test_a_stand_ins_own_chain_is_not_followed() -> None:
    made = routes(vllm_failover={"smol": "other", "other": "smol"})
    assert told(made.of("/api/chat", "smol")) == [("smol", "vllm"), ("other", "vllm")]


def test_a_cloud_model_is_ollamas_first() -> None:
    made = routes(vllm_failover={CLOUD: "smol"})
    assert told(made.of("/api/chat", CLOUD)) == [(f"ollama:{CLOUD}", "ollama"), ("smol", "vllm")]


@pytest.mark.parametrize("name", ["smol", "SMOL", "smol:latest", "library/smol"])
def test_the_names_of_the_map_are_compared_as_ollama_does(name: str) -> None:
    assert routes(vllm_failover={"Smol": "other"}).chain(name) == ("other",)


def test_a_colon_alone_makes_no_provider() -> None:
    made = routes(vllm_failover={"smol": "exaone3.5:7.8b"})
    assert told(made.of("/api/chat", "smol"))[1] == ("exaone3.5:7.8b", "vllm")


# Where each is


def test_a_model_on_vllm_is_where_it_is_served() -> None:
    made = routes(vllm_model_map={"exaone": "Org/Other"}, vllm_failover={"smol": "exaone"})
    own, other = made.of("/api/chat", "smol")
    server = made.fleet.servers[0]
    assert found(own) == Target(server, ModelCard("smol"))
    assert found(other) == Target(server, ModelCard("Org/Other"))
    assert found(own, server) is None


def test_a_model_elsewhere_needs_no_learning() -> None:
    made = routes(vllm_failover={"smol": ("ollama:qwen3:8b", "deepseek:deepseek-chat")})
    _, ollama, deepseek = made.of("/api/chat", "smol")
    at_ollama, at_deepseek = found(ollama), found(deepseek)
    assert at_ollama is not None
    assert at_deepseek is not None
    assert (at_ollama.url, at_ollama.card.id) == ("ollama", "qwen3:8b")
    assert (at_deepseek.url, at_deepseek.card.id) == ("https://api.deepseek.com", "deepseek-chat")
    assert found(ollama, at_ollama.server) is None


def test_ollama_has_one_circuit_for_all_its_models() -> None:
    made = routes(vllm_failover={"smol": "ollama:qwen3:8b", "other": CLOUD})
    one, two = (found(made.of("/api/chat", name)[1]) for name in ("smol", "other"))
    assert one is not None
    assert two is not None
    assert one.server is two.server


def test_while_its_circuit_is_open_it_is_not_asked() -> None:
    made = routes(vllm_failover={"smol": "deepseek:deepseek-chat"})
    _, deepseek = made.of("/api/chat", "smol")
    target = found(deepseek)
    assert target is not None
    for _ in range(FAILURES):
        target.server.failed(made.clock.ticks(), ServerUnreachable("boom"))
    with pytest.raises(CircuitOpen, match=r"https://api\.deepseek\.com has failed 5 times"):
        found(deepseek)
    made.clock.now += int(OPEN_S * SECOND)  # type: ignore[attr-defined]
    assert found(deepseek) is not None


def test_a_name_that_no_server_has() -> None:
    with pytest.raises(ResponseError, match="model 'nope' not found") as caught:
        play(routes().of("/api/chat", "nope")[0].find((), 0, None), reply({"data": [{"id": "smol"}]}))
    assert caught.value.status_code == 404


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_refused(name: str) -> None:
    with pytest.raises(ResponseError, match="model is required"):
        found(routes().of("/api/chat", name)[0])


# How it is done there


def test_on_vllm_an_operation_is_done_as_it_is() -> None:
    own, other = routes(vllm_failover={"smol": "other"}).of("/api/chat", "smol")
    assert own.operation(passthrough) is other.operation(passthrough) is passthrough


def test_at_ollama_every_operation_is_handed_on() -> None:
    _, ollama = routes(vllm_failover={"smol": "ollama:qwen3:8b"}).of("/api/chat", "smol")

    def never(call: object) -> Any:
        raise AssertionError("it is not translated")

    assert ollama.operation(never) is passthrough


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
    _, stand = routes(models=PROFILES, vllm_failover={"smol": "stand"}).of("/api/chat", "smol")
    assert stand.profile.system == "asked"
    assert stand.profile.parameters == {"temperature": 0.1, "top_k": 5}
    assert (stand.profile.from_, stand.profile.thinking.default) == ("other", True)


def test_what_the_model_leaves_open_is_the_stand_ins() -> None:
    _, stand = routes(models=PROFILES, vllm_failover={"bare": "stand"}).of("/api/chat", "bare")
    assert stand.profile.system == "stands in"
    assert stand.profile.parameters == {"temperature": 0.9, "top_k": 5}


@pytest.mark.parametrize("other", ["ollama:qwen3:8b", "deepseek:deepseek-chat"])
def test_elsewhere_the_profile_is_that_of_the_model_that_was_asked_for(other: str) -> None:
    _, stand = routes(models=PROFILES, vllm_failover={"smol": other}).of("/api/chat", "smol")
    assert (stand.profile.system, stand.profile.parameters) == ("asked", {"temperature": 0.1})
