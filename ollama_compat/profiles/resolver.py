"""Which served model an Ollama name means: profiles of the settings, profiles that were created, the model map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..mapping.model_names import same
from ..settings import NO_PROFILE, Profile, Settings
from .store import Profiles


@dataclass(frozen=True)
class ModelResolver:
    """The names of a client."""

    settings: Settings
    created: Profiles

    def profile(self, name: str) -> Profile:
        """The profile of a name; an empty one where it has none."""
        return self.configured(name) or self.created_profile(name) or NO_PROFILE

    def configured(self, name: str) -> Profile | None:
        """The profile that the settings give a name."""
        return next((profile for key, profile in self.settings.models.items() if same(key, name)), None)

    def created_profile(self, name: str) -> Profile | None:
        """The profile that was created under a name."""
        return next((profile for key, profile in self.created.all().items() if same(key, name)), None)

    def served(self, name: str) -> str:
        """The name under which vLLM serves it: its profile's `from`, through the map."""
        name = self.profile(name).from_ or name
        return next((served for key, served in self.settings.vllm_model_map.items() if same(key, name)), name)

    def version(self) -> int:
        """Changes when a created profile changes."""
        return hash(tuple(self.created.all()))

    def __iter__(self) -> Iterator[str]:
        """Every name that is known beside the served ones."""
        yield from self.settings.models
        yield from self.created.all()
        yield from self.settings.vllm_model_map
