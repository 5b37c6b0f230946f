"""The whole of `ollama` is here, and a newer `ollama` with more in it is noticed.

official.json is the record of the release that the translation was written for. A test that finds a difference names
it: cover the new thing, then bring the record up to date:

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
TO_OLLAMA = ("/api/web_search", "/api/web_fetch")  # services of Ollama's cloud
CLIENTS = ("Client", "AsyncClient")
TYPES = sorted(set(ollama.__all__) - set(CLIENTS))


@pytest.mark.parametrize("name", [*ollama.__all__, *official.functions()])
def test_every_name_of_ollama_is_here(name: str) -> None:
    assert hasattr(ollama_compat, name)


def test_all_holds_every_name_of_ollama() -> None:
    assert set(ollama.__all__) <= set(ollama_compat.__all__)


@pytest.mark.parametrize("name", ollama_compat.__all__)
def test_all_holds_only_names_that_exist(name: str) -> None:
    assert hasattr(ollama_compat, name)


@pytest.mark.parametrize("name", TYPES)
def test_types_and_exceptions_are_the_official_objects(name: str) -> None:
    assert getattr(ollama_compat, name) is getattr(ollama, name)


@pytest.mark.parametrize("name", CLIENTS)
def test_the_clients_are_subclasses_of_the_official_ones(name: str) -> None:
    assert issubclass(getattr(ollama_compat, name), getattr(ollama, name))


@pytest.mark.parametrize("name", official.functions())
def test_a_module_function_has_the_official_signature(name: str) -> None:
    assert inspect.signature(getattr(ollama_compat, name)) == inspect.signature(getattr(ollama, name))


@pytest.mark.parametrize("name", official.functions())
def test_a_module_function_has_the_official_documentation(name: str) -> None:
    assert inspect.getdoc(getattr(ollama_compat, name)) == inspect.getdoc(getattr(ollama, name))


@pytest.mark.parametrize(("client", "method"), [(c, m) for c in CLIENTS for m in official.methods(c)])
def test_a_method_has_the_official_signature(client: str, method: str) -> None:
    here, there = (getattr(getattr(package, client), method) for package in (ollama_compat, ollama))
    assert inspect.signature(here) == inspect.signature(there)


def test_the_module_functions_share_one_client_made_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_compat, "_default", None)
    with ollama_compat._client() as client:
        assert ollama_compat._client() is client


@pytest.mark.parametrize("kind", RECORD)
def test_the_installed_ollama_is_the_recorded_one(kind: str) -> None:
    assert official.record()[kind] == RECORD[kind]


@pytest.mark.parametrize("path", official.paths())
def test_every_path_of_the_official_client_has_its_answer(path: str) -> None:
    assert path in (*OPERATIONS, *CATALOG_OPERATIONS, *REFUSED, *TO_OLLAMA)


@pytest.mark.parametrize(
    "module", ["asyncio", "openai", "msgspec", "tomllib", "ollama_compat.dispatch", "ollama_compat.transport.driver"]
)
def test_importing_the_package_does_not_import(module: str) -> None:
    program = f"import sys, ollama_compat; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
