"""The package has every name of `ollama`, and the tests notice a newer `ollama` with more names.

official.json records the supported release of `ollama`. When a test finds a difference, support the new part, then
update the record:

    python -m tests.unit.official > tests/unit/official.json
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import ollama
import pytest

import ollama_compat
from ollama_compat.dispatch import CATALOG_OPERATIONS, OPERATIONS, REFUSED

from . import official

RECORD = json.loads(Path(__file__).with_name("official.json").read_text("utf-8"))
TO_OLLAMA = ("/api/web_search", "/api/web_fetch")  # services of the Ollama cloud
CLIENTS = ("Client", "AsyncClient")
TYPES = sorted(set(ollama.__all__) - set(CLIENTS))


@pytest.mark.parametrize("name", [*ollama.__all__, *official.functions()])
def test_package_has_every_name_of_ollama(name: str) -> None:
    assert hasattr(ollama_compat, name)


def test_all_contains_every_name_of_ollama() -> None:
    assert set(ollama.__all__) <= set(ollama_compat.__all__)


@pytest.mark.parametrize("name", ollama_compat.__all__)
def test_all_contains_only_existing_names(name: str) -> None:
    assert hasattr(ollama_compat, name)


@pytest.mark.parametrize("name", TYPES)
def test_types_and_exceptions_are_the_official_objects(name: str) -> None:
    assert getattr(ollama_compat, name) is getattr(ollama, name)


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_are_subclasses_of_the_official_ones(name: str) -> None:
    assert issubclass(getattr(ollama_compat, name), getattr(ollama, name))


@pytest.mark.parametrize("name", official.functions())
def test_module_function_has_the_official_signature(name: str) -> None:
    assert inspect.signature(getattr(ollama_compat, name)) == inspect.signature(getattr(ollama, name))


@pytest.mark.parametrize("name", official.functions())
def test_module_function_has_the_official_documentation(name: str) -> None:
    assert inspect.getdoc(getattr(ollama_compat, name)) == inspect.getdoc(getattr(ollama, name))


@pytest.mark.parametrize(("client", "method"), [(c, m) for c in CLIENTS for m in official.methods(c)])
def test_method_has_the_official_signature(client: str, method: str) -> None:
    here, there = (getattr(getattr(package, client), method) for package in (ollama_compat, ollama))
    assert inspect.signature(here) == inspect.signature(there)


def test_module_functions_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_compat, "_default", None)
    with ollama_compat._client() as client:
        assert ollama_compat._client() is client


@pytest.mark.parametrize("kind", RECORD)
def test_installed_ollama_matches_the_record(kind: str) -> None:
    assert official.record()[kind] == RECORD[kind]


@pytest.mark.parametrize("path", official.paths())
def test_every_path_of_the_official_client_is_handled(path: str) -> None:
    assert path in (*OPERATIONS, *CATALOG_OPERATIONS, *REFUSED, *TO_OLLAMA)


@pytest.fixture(scope="module")
def imported_modules() -> set[str]:
    """The modules that `import ollama_compat` loads."""
    program = "import sys, ollama_compat; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize(
    "module", ["asyncio", "openai", "msgspec", "tomllib", "ollama_compat.dispatch", "ollama_compat.transport.driver"]
)
def test_importing_the_package_does_not_import(imported_modules: set[str], module: str) -> None:
    assert "ollama_compat" in imported_modules
    assert module not in imported_modules
