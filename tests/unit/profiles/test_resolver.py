"""Resolution of an Ollama name to a profile and a served name, and its cache."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import Profile, Settings
from ollama_compat.profiles.resolver import ModelResolver
from ollama_compat.profiles.store import Version

SETTINGS: dict[str, Any] = {
    "vllm_model_map": {"smol": "org/Smol-135M", "big": "org/Big"},
    "models": {"pirate": {"from": "smol", "system": "Arr"}, "big": {"system": "Be brief"}, "raw": {"from": "org/Raw"}},
}


class MemoryStore:
    """Created profiles in memory. Counts the calls of `all`."""

    def __init__(self, **profiles: Profile) -> None:
        self.profiles = profiles
        self.version: Version = (0,)
        self.reads = 0

    def all(self) -> dict[str, Profile]:
        self.reads += 1
        return self.profiles

    def put(self, name: str, profile: Profile | None) -> None:
        raise NotImplementedError


def resolver(**created: Profile) -> ModelResolver:
    return ModelResolver(Settings.model_validate(SETTINGS), MemoryStore(**created))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(mine=Profile.model_validate({"from": "smol"}))


@pytest.fixture
def cached(store: MemoryStore) -> ModelResolver:
    return ModelResolver(Settings.model_validate(SETTINGS), store)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("smol", "org/Smol-135M"),
        ("smol:latest", "org/Smol-135M"),
        ("SMOL", "org/Smol-135M"),
        ("registry.ollama.ai/library/smol:latest", "org/Smol-135M"),
        ("pirate", "org/Smol-135M"),
        ("Pirate:latest", "org/Smol-135M"),
        ("big", "org/Big"),
        ("raw", "org/Raw"),
        ("smol:135m", "smol:135m"),
        ("org/Other", "org/Other"),
        ("mine", "org/Smol-135M"),
    ],
)
def test_served_name_follows_profile_and_model_map(name: str, served: str) -> None:
    assert resolver(mine=Profile.model_validate({"from": "smol"})).served(name) == served


@pytest.mark.parametrize(
    ("name", "system"), [("PIRATE:latest", "Arr"), ("big", "Be brief"), ("mine", "Mine"), ("x", None)]
)
def test_profile_is_found_by_ollama_name_comparison(name: str, system: str | None) -> None:
    assert resolver(mine=Profile(system="Mine")).profile(name).system == system


def test_configured_profile_overrides_created_profile() -> None:
    assert resolver(pirate=Profile(system="Mine")).profile("pirate").system == "Arr"


def test_iteration_yields_all_names_besides_served_names() -> None:
    assert list(resolver(mine=Profile())) == ["pirate", "big", "raw", "mine", "smol", "big"]


# Cache


def test_name_is_resolved_once_while_store_is_unchanged(store: MemoryStore, cached: ModelResolver) -> None:
    assert [cached.served("mine") for _ in range(3)] == ["org/Smol-135M"] * 3
    assert cached.profile("mine").from_ == "smol"
    assert store.reads == 1


def test_name_is_resolved_again_when_store_changes(store: MemoryStore, cached: ModelResolver) -> None:
    assert cached.served("mine") == "org/Smol-135M"
    store.profiles, store.version = {"mine": Profile.model_validate({"from": "big"})}, (1,)
    assert cached.served("mine") == "org/Big"
    store.profiles, store.version = {}, None
    assert cached.served("mine") == "mine"


def test_cache_is_bounded(store: MemoryStore, cached: ModelResolver) -> None:
    for number in range(2000):
        cached.served(f"name-{number}")
    reads = store.reads
    cached.served("name-1999")
    assert store.reads == reads
    cached.served("name-0")
    assert store.reads == reads + 1


def test_very_long_name_is_not_cached(store: MemoryStore, cached: ModelResolver) -> None:
    name = "x" * 100_000
    assert [cached.served(name) for _ in range(2)] == [name] * 2
    assert store.reads == 2


def test_error_of_store_is_not_cached(
    store: MemoryStore, cached: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> dict[str, Profile]:
        raise OSError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(store, "all", fails)
        assert cached.served("pirate") == "org/Smol-135M"
        with pytest.raises(OSError, match="broken"):
            cached.served("mine")
    assert cached.served("mine") == "org/Smol-135M"
