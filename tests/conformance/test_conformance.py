"""Every recorded request of a real Ollama, asked of vLLM and compared with Ollama's answer.

The sync client is asked for several generations at once. The async client drives the same exchanges, so of generations
it is asked one of each kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import ollama_compat as ollama
from tests.asker import Asker

from .compare import all_differences, asked, differences, generates, unexplained
from .recorded import ASPECTS, DIFFERENT, Case, cases

pytestmark = pytest.mark.vllm

ABLE, UNABLE = cases()
CONFIG = Path(__file__).with_name("models.toml")
HERE = [case for case in ABLE if case.arguments.get("model") != "gemma270"]
"""The others are asked of their own server, in tests/integration/test_korean.py."""

_FIRST_OF_KIND = {(case.method, case.stream, case.status): case for case in reversed(HERE)}.values()
OF_ASYNC = [case for case in HERE if not generates(case) or case in _FIRST_OF_KIND]


@pytest.fixture(scope="module")
def settings(chat_server, embed_server) -> dict[str, str]:
    urls = f"{chat_server.url},{embed_server.url}"
    return {"backend_mode": "vllm", "vllm_urls": urls, "ollama_compat_config": str(CONFIG)}


@pytest.fixture(scope="module")
def found(settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """How each answer of the sync client differs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        with ollama.Client(**settings) as client:
            return all_differences(Asker(client, None), HERE)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in HERE])
def test_what_ollama_answered(found, case: Case):
    assert unexplained(case, found[case.name]) == {}


@pytest.fixture(scope="module")
def ask_async(settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        ask = Asker(ollama.AsyncClient(**settings), runner)
        yield ask
        ask.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in OF_ASYNC])
def test_what_ollama_answered_the_async_client(ask_async, case: Case):
    assert unexplained(case, differences(case, asked(ask_async, case))) == {}


def test_the_list_of_differences_is_of_cases_that_are_there():
    assert set(DIFFERENT) <= {case.name for case in ABLE}
    assert all(aspects <= set(ASPECTS) and reason for aspects, reason in DIFFERENT.values())


def test_most_of_what_was_recorded_is_compared():
    assert len(ABLE) >= 150
    assert all(UNABLE.values())
