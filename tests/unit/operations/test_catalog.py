"""tags, ps, show, pull: what the servers say of themselves, as Ollama's catalogue."""

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
NO_THOUGHTS, THOUGHTS = (PLAIN, PLAIN, PLAIN), (CHANGED, PLAIN, PLAIN)
NO_TOOLS, TOOLS, IMAGES = (PLAIN, PLAIN, NO_SUCH_PATH), (PLAIN, CHANGED, NO_SUCH_PATH), (PLAIN, PLAIN, PLAIN)
QWEN = ModelCard("Qwen/Qwen3-8B-AWQ", created=1795488452, max_model_len=4096)


def listed(path: str, *cards: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """The models of a list."""
    made = Dispatcher(Settings(backend_mode="vllm", vllm_urls=(URL,), **settings), FakeClock())
    exchange = made.dispatch(path, None)
    assert exchange is not None
    models: list[dict[str, Any]] = play(exchange, reply({"data": cards})).parts[0]["models"]
    return models


def shown(*script: Any, card: ModelCard = QWEN, **changes: Any) -> Play:
    return play(show(call("/api/show", card=card, **changes)), *script)


# Lists


def test_tags_lists_a_model_as_ollama_does() -> None:
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


def test_ps_lists_a_model_as_one_that_stays_loaded() -> None:
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
def test_a_list_has_the_names_that_services_use(settings: dict[str, Any], names: list[str]) -> None:
    assert [model["name"] for model in listed("/api/tags", {"id": "org/Smol"}, {"id": "other"}, **settings)] == names


# show


@pytest.mark.parametrize(
    ("script", "card", "profile", "capabilities"),
    [
        ((EMBEDS,), ModelCard("kure"), {}, ["embedding"]),
        ((PATHS, *NO_THOUGHTS, *NO_TOOLS), ModelCard("smol"), {}, ["completion"]),
        ((PATHS, *NO_THOUGHTS, *TOOLS), ModelCard("smol"), {}, ["completion", "tools"]),
        ((PATHS, *NO_THOUGHTS, *IMAGES), ModelCard("smol"), {}, ["completion", "vision"]),
        ((PATHS, *THOUGHTS, *NO_TOOLS), ModelCard("smol"), {}, ["completion", "thinking"]),
        ((PATHS, *NO_THOUGHTS, *NO_TOOLS), QWEN, {}, ["completion", "thinking"]),
        ((PATHS, *NO_THOUGHTS, *NO_TOOLS), ModelCard("starcoder2"), {}, ["completion", "insert"]),
        ((PATHS, *NO_THOUGHTS, *NO_TOOLS), ModelCard("smol"), {"fim": "{prefix}"}, ["completion", "insert"]),
        ((NO_SUCH_PATH, *[NO_SUCH_PATH] * 6), ModelCard("smol"), {}, ["completion"]),
        ((), QWEN, {"capabilities": ["completion", "vision"]}, ["completion", "vision"]),
    ],
)
def test_what_a_model_can_do(script: Any, card: ModelCard, profile: dict[str, Any], capabilities: list[str]) -> None:
    assert shown(*script, card=card, profile=profile).parts[0]["capabilities"] == capabilities


def test_a_server_is_asked_once_what_a_model_can_do() -> None:
    context = ClientContext(FakeClock())
    shown(PATHS, *NO_THOUGHTS, *TOOLS, context=context)
    assert shown(context=context).parts[0]["capabilities"] == ["completion", "tools", "thinking"]


def test_what_is_known_of_a_model() -> None:
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


def test_parameters_are_written_as_in_a_modelfile() -> None:
    profile = {"parameters": {"temperature": 0.1, "stop": ["<a>", "b"]}, "capabilities": []}
    assert [line.split() for line in shown(profile=profile).parts[0]["parameters"].splitlines()] == [
        ["stop", '"<a>"'],
        ["stop", '"b"'],
        ["temperature", "0.1"],
    ]


def test_what_is_not_known_is_left_out() -> None:
    part = shown(card=ModelCard("x"), profile={"capabilities": []}).parts[0]
    assert part["model_info"] == {"general.basename": "x"}
    assert "system" not in part


# pull


def test_what_is_served_is_there_already() -> None:
    assert play(pull(call("/api/pull"))).parts == [{"status": "success"}]


def test_a_profile_that_has_a_licence_shows_it() -> None:
    assert shown(profile={"license": "MIT", "capabilities": []}).parts[0]["license"] == "MIT"
