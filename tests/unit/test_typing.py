"""The package is typed for its users. `make lint` checks typed_service.py with mypy, as a service would."""

from __future__ import annotations

from importlib import resources


def test_package_contains_the_marker_that_type_checkers_require() -> None:
    assert resources.files("ollama_compat").joinpath("py.typed").is_file()
