"""Every recorded request of a real Ollama, asked of vLLM and compared with Ollama's answer.

The sync client is asked in threads: vLLM works on four generations at once in hardly more time than on one. The async
client drives the same exchanges, so of generations it is asked one of each kind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ollama_compat as ollama
from tests.asker import Asker

from .compare import asked, differences
from .recorded import ASPECTS, DIFFERENT, Case, cases

pytestmark = pytest.mark.vllm

ABLE, UNABLE = cases()
CONFIG = Path(__file__).with_name("models.toml")
HERE = [case for case in ABLE if case.arguments.get("model") != "gemma270"]
"""The others are asked of their own server, in tests/integration/test_korean.py."""


def _generates(case: Case) -> bool:
    return case.method in ("chat", "generate")


_FIRST_OF_KIND = {(case.method, case.stream, case.status): case for case in reversed(HERE)}.values()
OF_ASYNC = [case for case in HERE if not _generates(case) or case in _FIRST_OF_KIND]


def check(case: Case, found: dict[str, str]) -> None:
    allowed, _ = DIFFERENT.get(case.name, (frozenset(), ""))
    assert {aspect: how for aspect, how in found.items() if aspect not in allowed} == {}


@pytest.fixture(scope="module")
def settings(chat_server, embed_server) -> dict[str, str]:
    urls = f"{chat_server.url},{embed_server.url}"
    return {"backend_mode": "vllm", "vllm_urls": urls, "ollama_compat_config": str(CONFIG)}


@pytest.fixture(scope="module")
def found(settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """How each answer of the sync client differs. What changes the models is asked in its turn."""
    differing: dict[str, dict[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        with ollama.Client(**settings) as client, ThreadPoolExecutor(4) as pool:
            ask = Asker(client, None)
            for at_once, group in itertools.groupby(HERE, _generates):
                together = list(group)
                answers = (pool.map if at_once else map)(lambda case: asked(ask, case), together)
                differing |= {case.name: differences(case, got) for case, got in zip(together, answers, strict=True)}
    return differing


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in HERE])
def test_what_ollama_answered(found, case: Case):
    check(case, found[case.name])


@pytest.fixture(scope="module")
def ask_async(settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        ask = Asker(ollama.AsyncClient(**settings), runner)
        yield ask
        ask.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in OF_ASYNC])
def test_what_ollama_answered_the_async_client(ask_async, case: Case):
    check(case, differences(case, asked(ask_async, case)))


def test_the_list_of_differences_is_of_cases_that_are_there():
    assert set(DIFFERENT) <= {case.name for case in ABLE}
    assert all(aspects <= set(ASPECTS) and reason for aspects, reason in DIFFERENT.values())


def test_most_of_what_was_recorded_is_compared():
    assert len(ABLE) >= 150
    assert all(UNABLE.values())
