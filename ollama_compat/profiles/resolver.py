"""Resolution of an Ollama model name: its profile, and the name under which vLLM serves the model.

Profiles of the settings have priority over created profiles. Names are compared as Ollama compares them (letter case,
`:latest` and the default registry do not matter). A result is cached per name until the created profiles change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

from ..mapping.model_names import MAX_CACHED_LENGTH, same
from ..settings import NO_PROFILE, Profile, Settings
from .store import ProfileStore, Version

_MAX_NAMES = 1024
"""Number of names that a client caches. Callers can invent names, so the cache is bounded."""

T = TypeVar("T")


class ResolvedName(NamedTuple):
    """The result for one name."""

    profile: Profile
    served: str
    """Name under which vLLM serves the model."""


class ModelResolver:
    """Resolves the model names of one client."""

    def __init__(self, settings: Settings, store: ProfileStore) -> None:
        """Use the profiles and the model map of `settings`, and the profiles in `store`."""
        self.settings = settings
        self.store = store
        # A result belongs to a version of the store. The version is part of the key, so threads need no lock.
        self._cached = lru_cache(_MAX_NAMES)(partial(_resolve, settings, store))

    def resolve(self, name: str) -> ResolvedName:
        """Return the profile and the served name of `name`: one `stat` of the store and one cache lookup."""
        if len(name) > MAX_CACHED_LENGTH:
            return _resolve(self.settings, self.store, name)
        return self._cached(name, self.store.version)

    def profile(self, name: str) -> Profile:
        """Return the profile of `name`, or `NO_PROFILE`."""
        return self.resolve(name).profile

    def served(self, name: str) -> str:
        """Return the name under which vLLM serves `name`: the `from` of its profile, through the model map."""
        return self.resolve(name).served

    def configured_profile(self, name: str) -> Profile | None:
        """Return the profile that the settings contain for `name`."""
        return _find(self.settings.models, name)

    def created_profile(self, name: str) -> Profile | None:
        """Return the created profile of `name`."""
        return _find(self.store.all(), name)

    def __iter__(self) -> Iterator[str]:
        """Yield every known name in addition to the served names. A name may occur twice."""
        yield from self.settings.models
        yield from self.store.all()
        yield from self.settings.vllm_model_map


def _resolve(settings: Settings, store: ProfileStore, name: str, _: Version | None = None) -> ResolvedName:
    profile = _find(settings.models, name) or _find(store.all(), name) or NO_PROFILE
    base = profile.from_ or name
    served = _find(settings.vllm_model_map, base)
    return ResolvedName(profile, base if served is None else served)


def _find(table: Mapping[str, T], name: str) -> T | None:
    return next((value for key, value in table.items() if same(key, name)), None)
