"""Which served model an Ollama name means."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import Profile, Settings
from ollama_compat.profiles.resolver import ModelResolver

SETTINGS: dict[str, Any] = {
    "vllm_model_map": {"smol": "org/Smol-135M", "big": "org/Big"},
    "models": {"pirate": {"from": "smol", "system": "Arr"}, "big": {"system": "Be brief"}, "raw": {"from": "org/Raw"}},
}


class Kept:
    """Created profiles, kept in memory."""

    def __init__(self, **profiles: Profile) -> None:
        self.profiles = profiles

    def all(self) -> dict[str, Profile]:
        return self.profiles

    def put(self, name: str, profile: Profile | None) -> None:
        raise NotImplementedError


def names(**created: Profile) -> ModelResolver:
    return ModelResolver(Settings.model_validate(SETTINGS), Kept(**created))


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
def test_a_name_goes_through_its_profile_and_the_map(name: str, served: str) -> None:
    assert names(mine=Profile.model_validate({"from": "smol"})).served(name) == served


@pytest.mark.parametrize(
    ("name", "system"), [("PIRATE:latest", "Arr"), ("big", "Be brief"), ("mine", "Mine"), ("x", None)]
)
def test_a_profile_is_found_as_ollama_compares_names(name: str, system: str | None) -> None:
    assert names(mine=Profile(system="Mine")).profile(name).system == system


def test_a_profile_of_the_settings_goes_over_a_created_one() -> None:
    assert names(pirate=Profile(system="Mine")).profile("pirate").system == "Arr"


def test_every_name_beside_the_served_ones() -> None:
    assert list(names(mine=Profile())) == ["pirate", "big", "raw", "mine", "smol", "big"]
