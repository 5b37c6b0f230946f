"""The backends of a model: their order, and the profile of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ollama_compat import Settings
from ollama_compat.call import ClientContext
from ollama_compat.profiles.resolver import ModelResolver
from ollama_compat.profiles.store import ProfileFile, data_folder
from ollama_compat.servers.backends import Backend, Backends
from ollama_compat.servers.registry import ServerRegistry
from tests.play import StillClock

A = "http://a:8001"
CLOUD = "gpt-oss:120b-cloud"


def backends(**values: Any) -> Backends:
    """The backends for these settings."""
    settings, context = Settings(backend_mode="vllm", vllm_urls=(A,), **values), ClientContext(StillClock())
    registry = ServerRegistry(settings.vllm_urls, context.clock)
    resolver = ModelResolver(settings, ProfileFile(data_folder()))
    return Backends(settings, registry, resolver, context.notices, context.clock)


def names(chain: Sequence[Backend]) -> list[tuple[str, str]]:
    return [(backend.name, backend.provider) for backend in chain]


# Order


def test_chain_is_the_model_alone_without_failover_setting() -> None:
    assert names(backends().chain("smol")) == [("smol", "vllm")]


def test_chain_lists_fallbacks_after_the_model_in_order() -> None:
    chains = backends(vllm_failover={"smol": ("other", "ollama:qwen3:8b", CLOUD, "deepseek:deepseek-chat")})
    assert names(chains.chain("smol")) == [
        ("smol", "vllm"),
        ("other", "vllm"),
        ("ollama:qwen3:8b", "ollama"),
        (f"ollama:{CLOUD}", "ollama"),
        ("deepseek:deepseek-chat", "deepseek"),
    ]


def test_chain_omits_fallbacks_of_fallbacks() -> None:
    chains = backends(vllm_failover={"smol": "other", "other": "smol"})
    assert names(chains.chain("smol")) == [("smol", "vllm"), ("other", "vllm")]


def test_chain_of_cloud_model_starts_with_ollama() -> None:
    chains = backends(vllm_failover={CLOUD: "smol"})
    assert names(chains.chain(CLOUD)) == [(f"ollama:{CLOUD}", "ollama"), ("smol", "vllm")]


@pytest.mark.parametrize("name", ["smol", "SMOL", "smol:latest", "library/smol"])
def test_failover_setting_compares_names_like_ollama(name: str) -> None:
    assert backends(vllm_failover={"Smol": "other"}).fallbacks(name) == ("other",)


def test_colon_in_model_name_is_not_a_provider_prefix() -> None:
    chains = backends(vllm_failover={"smol": "exaone3.5:7.8b"})
    assert names(chains.chain("smol"))[1] == ("exaone3.5:7.8b", "vllm")


# Profiles


PROFILES: dict[str, Any] = {
    "smol": {"from": "smol", "system": "requested", "parameters": {"temperature": 0.1}},
    "backup": {
        "from": "other",
        "system": "fallback",
        "parameters": {"temperature": 0.9, "top_k": 5},
        "thinking": {"default": True},
    },
    "bare": {"from": "other"},
}


def test_profile_of_fallback_has_behavior_of_requested_model_and_thinking_of_fallback() -> None:
    _, fallback = backends(models=PROFILES, vllm_failover={"smol": "backup"}).chain("smol")
    assert fallback.profile.system == "requested"
    assert fallback.profile.parameters == {"temperature": 0.1, "top_k": 5}
    assert (fallback.profile.from_, fallback.profile.thinking.default) == ("other", True)


def test_profile_of_fallback_fills_fields_that_requested_model_leaves_unset() -> None:
    _, fallback = backends(models=PROFILES, vllm_failover={"bare": "backup"}).chain("bare")
    assert fallback.profile.system == "fallback"
    assert fallback.profile.parameters == {"temperature": 0.9, "top_k": 5}


@pytest.mark.parametrize("other", ["ollama:qwen3:8b", "deepseek:deepseek-chat"])
def test_profile_at_ollama_or_provider_is_that_of_requested_model(other: str) -> None:
    _, fallback = backends(models=PROFILES, vllm_failover={"smol": other}).chain("smol")
    assert (fallback.profile.system, fallback.profile.parameters) == ("requested", {"temperature": 0.1})
