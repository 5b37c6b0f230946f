"""Sends every recorded Ollama request to vLLM and compares the answers.

The sync client sends generations concurrently. The async client runs the same operations, so it sends one generation
of each kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import ollama_compat as ollama
from tests.asker import Asker

from .compare import all_differences, answer, differences, generates, unexplained
from .recorded import ASPECTS, DIFFERENT, Case, cases

pytestmark = pytest.mark.vllm

SUPPORTED, UNSUPPORTED = cases()
CONFIG = Path(__file__).with_name("models.toml")
SYNC = [case for case in SUPPORTED if case.arguments.get("model") != "gemma270"]
"""tests/integration/test_korean.py tests the other model, which has a server of its own."""

_FIRST_OF_KIND = {(case.method, case.stream, case.status): case for case in reversed(SYNC)}.values()
ASYNC = [case for case in SYNC if not generates(case) or case in _FIRST_OF_KIND]


@pytest.fixture(scope="module")
def settings(chat_server, embed_server) -> dict[str, str]:
    urls = f"{chat_server.url},{embed_server.url}"
    return {"backend_mode": "vllm", "vllm_urls": urls, "ollama_compat_config": str(CONFIG)}


@pytest.fixture(scope="module")
def found(settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The differences of each answer of the sync client, by the name of its case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        with ollama.Client(**settings) as client:
            return all_differences(Asker(client, None), SYNC)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SYNC])
def test_answer_matches_the_recorded_answer(found, case: Case):
    assert unexplained(case, found[case.name]) == {}


@pytest.fixture(scope="module")
def async_client(settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        client = Asker(ollama.AsyncClient(**settings), runner)
        yield client
        client.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ASYNC])
def test_answer_of_the_async_client_matches_the_recorded_answer(async_client, case: Case):
    assert unexplained(case, differences(case, answer(async_client, case))) == {}


def test_known_differences_name_existing_cases_and_aspects():
    assert set(DIFFERENT) <= {case.name for case in SUPPORTED}
    assert all(aspects <= set(ASPECTS) and reason for aspects, reason in DIFFERENT.values())


def test_comparison_covers_most_recorded_requests():
    assert len(SUPPORTED) >= 150
    assert all(UNSUPPORTED.values())
