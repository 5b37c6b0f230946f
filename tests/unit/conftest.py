"""Fixtures of the unit tests: a clean environment, and the number of examples of a property test.

HYPOTHESIS_PROFILE=thorough runs 300 examples of each property test instead of 20 (`make properties`).
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a slow machine is not an error.
settings.register_profile("default", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("default"), max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the variables of the user who runs the tests that a client would read."""
    for name in os.environ:
        if name.startswith(("BACKEND_MODE", "VLLM_", "OLLAMA_")):
            monkeypatch.delenv(name)
