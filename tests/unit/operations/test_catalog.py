"""tags, ps, show, pull: the models of the servers in Ollama's format."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import Settings
from ollama_compat.call import ClientContext
from ollama_compat.dispatch import Dispatcher
from ollama_compat.mapping.vllm_schema import ModelCard
from ollama_compat.operations.catalog import pull, show
from tests.play import NO_SUCH_PATH, URL, FakeClock, Play, call, play, reply, tokens

PATHS = reply({"paths": {"/v1/chat/completions": {}, "/tokenize": {}}})
EMBEDS = reply({"paths": {"/v1/embeddings": {}}})
PLAIN, CHANGED = tokens(1), tokens(1, 2)
NO_THINKING, THINKING = (PLAIN, PLAIN, PLAIN), (CHANGED, PLAIN, PLAIN)
NO_TOOLS, TOOLS, IMAGES = (PLAIN, PLAIN, NO_SUCH_PATH), (PLAIN, CHANGED, NO_SUCH_PATH), (PLAIN, PLAIN, PLAIN)
QWEN = ModelCard("Qwen/Qwen3-8B-AWQ", created=1795488452, max_model_len=4096)


def listed(path: str, *cards: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """The models that the path lists."""
    dispatcher = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(URL,), **settings), FakeClock())
    steps = dispatcher.dispatch(path, None)
    assert steps is not None
    models: list[dict[str, Any]] = play(steps, reply({"data": cards})).parts[0]["models"]
    return models


def shown(*script: Any, card: ModelCard = QWEN, **changes: Any) -> Play:
    return play(show(call("/api/show", card=card, **changes)), *script)


# tags and ps


def test_tags_lists_model_in_ollama_format() -> None:
    assert listed("/api/tags", {"id": "org/Exaone-32B-AWQ", "created": 1795488452, "root": "/models/x"}) == [
        {
            "name": "org/Exaone-32B-AWQ:latest",
            "model": "org/Exaone-32B-AWQ:latest",
            "modified_at": "2026-11-24T02:47:32Z",
            "size": 0,
            "digest": "",
            "details": {
                "parent_model": "/models/x",
                "format": "",
                "family": "",
                "families": [],
                "parameter_size": "32B",
                "quantization_level": "AWQ",
            },
        }
    ]


def test_ps_lists_model_that_stays_loaded() -> None:
    model = listed("/api/ps", {"id": "smol", "max_model_len": 2048})[0]
    assert (model["name"], model["context_length"]) == ("smol:latest", 2048)
    assert model["expires_at"].startswith("2318-")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"vllm_model_map": {}}, ["org/Smol:latest", "other:latest"]),
        ({"vllm_model_map": {"smol": "org/Smol"}}, ["smol:latest", "other:latest"]),
        ({"vllm_model_map": {"a": "org/Smol", "b:7b": "org/Smol"}}, ["a:latest", "b:7b", "other:latest"]),
        ({"vllm_model_map": {"gone": "org/Gone"}}, ["org/Smol:latest", "other:latest"]),
        ({"models": {"pirate": {"from": "other"}}}, ["pirate:latest", "org/Smol:latest", "other:latest"]),
        ({"vllm_model_map": {"OTHER": "other"}}, ["OTHER:latest", "org/Smol:latest"]),
    ],
)
def test_tags_lists_names_of_model_map_and_profiles(settings: dict[str, Any], names: list[str]) -> None:
    assert [model["name"] for model in listed("/api/tags", {"id": "org/Smol"}, {"id": "other"}, **settings)] == names


# show


@pytest.mark.parametrize(
    ("script", "card", "profile", "capabilities"),
    [
        ((EMBEDS,), ModelCard("kure"), {}, ["embedding"]),
        ((PATHS, *NO_THINKING, *NO_TOOLS), ModelCard("smol"), {}, ["completion"]),
        ((PATHS, *NO_THINKING, *TOOLS), ModelCard("smol"), {}, ["completion", "tools"]),
        ((PATHS, *NO_THINKING, *IMAGES), ModelCard("smol"), {}, ["completion", "vision"]),
        ((PATHS, *THINKING, *NO_TOOLS), ModelCard("smol"), {}, ["completion", "thinking"]),
        ((PATHS, *NO_THINKING, *NO_TOOLS), QWEN, {}, ["completion", "thinking"]),
        ((PATHS, *NO_THINKING, *NO_TOOLS), ModelCard("starcoder2"), {}, ["completion", "insert"]),
        ((PATHS, *NO_THINKING, *NO_TOOLS), ModelCard("smol"), {"fim": "{prefix}"}, ["completion", "insert"]),
        ((NO_SUCH_PATH, *[NO_SUCH_PATH] * 6), ModelCard("smol"), {}, ["completion"]),
        ((), QWEN, {"capabilities": ["completion", "vision"]}, ["completion", "vision"]),
    ],
)
def test_show_returns_capabilities(
    script: Any, card: ModelCard, profile: dict[str, Any], capabilities: list[str]
) -> None:
    assert shown(*script, card=card, profile=profile).parts[0]["capabilities"] == capabilities


def test_capabilities_are_determined_once() -> None:
    context = ClientContext(FakeClock())
    shown(PATHS, *NO_THINKING, *TOOLS, context=context)
    assert shown(context=context).parts[0]["capabilities"] == ["completion", "tools", "thinking"]


def test_show_returns_modelfile_and_model_info() -> None:
    profile = {"system": "Arr", "parameters": {"top_k": 5, "stop": ["a", "b"]}, "capabilities": ["completion"]}
    part = shown(profile=profile).parts[0]
    assert part["modelfile"] == (
        f"# Served by vLLM at {URL}\n"
        'FROM Qwen/Qwen3-8B-AWQ\nSYSTEM """Arr"""\nPARAMETER top_k 5\nPARAMETER stop a\nPARAMETER stop b\n'
    )
    assert part["system"] == "Arr"
    assert part["modified_at"] == "2026-11-24T02:47:32Z"
    assert part["model_info"] == {
        "general.basename": "Qwen/Qwen3-8B-AWQ",
        "general.architecture": "qwen",
        "qwen.context_length": 4096,
    }
    assert part["details"]["parameter_size"] == "8B"


def test_show_writes_parameters_like_modelfile() -> None:
    profile = {"parameters": {"temperature": 0.1, "stop": ["<a>", "b"]}, "capabilities": []}
    assert [line.split() for line in shown(profile=profile).parts[0]["parameters"].splitlines()] == [
        ["stop", '"<a>"'],
        ["stop", '"b"'],
        ["temperature", "0.1"],
    ]


def test_show_omits_unknown_fields() -> None:
    part = shown(card=ModelCard("x"), profile={"capabilities": []}).parts[0]
    assert part["model_info"] == {"general.basename": "x"}
    assert "system" not in part


# pull


def test_pull_of_served_model_succeeds() -> None:
    assert play(pull(call("/api/pull"))).parts == [{"status": "success"}]


def test_show_returns_license_of_profile() -> None:
    assert shown(profile={"license": "MIT", "capabilities": []}).parts[0]["license"] == "MIT"
