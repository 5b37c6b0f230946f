"""Every recorded request of a real Ollama, asked of vLLM through both clients, and compared with Ollama's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .compare import asked, differences
from .recorded import ASPECTS, DIFFERENT, Case, cases

pytestmark = pytest.mark.vllm

ABLE, UNABLE = cases()


@pytest.fixture(scope="module")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles that one case creates another asks for, so all cases of a run share them."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def ask(connect, chat_server, embed_server, data_home, monkeypatch, request):
    monkeypatch.setenv("XDG_DATA_HOME", str(data_home / request.node.callspec.params["connect"]))
    config = Path(__file__).with_name("models.toml")
    return connect(vllm_urls=f"{chat_server.url},{embed_server.url}", ollama_compat_config=str(config))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ABLE])
def test_what_ollama_answered(ask, case: Case):
    if case.arguments.get("model") == "gemma270":
        pytest.skip("asked of its own server in tests/integration/test_korean.py")
    found = differences(case, asked(ask, case))
    allowed, _ = DIFFERENT.get(case.name, (frozenset(), ""))
    assert {aspect: how for aspect, how in found.items() if aspect not in allowed} == {}


def test_the_list_of_differences_is_of_cases_that_are_there():
    assert set(DIFFERENT) <= {case.name for case in ABLE}
    assert all(aspects <= set(ASPECTS) and reason for aspects, reason in DIFFERENT.values())


def test_most_of_what_was_recorded_is_compared():
    assert len(ABLE) >= 150
    assert all(UNABLE.values())
