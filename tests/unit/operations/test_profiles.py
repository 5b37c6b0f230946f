"""create, copy, delete: models made from served ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ollama_compat import Profile, ResponseError, Settings
from ollama_compat.dispatch import Dispatcher
from ollama_compat.profiles.store import ProfileFile
from tests.play import FakeClock, Play, play, reply

URL = "http://a:8001"
SMOL = reply({"data": [{"id": "smol"}]})
PIRATE = {"model": "pirate", "from": "smol", "system": "Arr", "parameters": {"temperature": 0.1}}


@pytest.fixture
def made(tmp_path: Path) -> Dispatcher:
    """One server with `smol`, and a profile of the settings."""
    settings = Settings(backend_mode="vllm", vllm_urls=(URL,), models={"fixed": Profile(system="F")})
    return Dispatcher(settings, FakeClock(), ProfileFile(tmp_path))


def ask(made: Dispatcher, path: str, body: dict[str, Any], *script: Any) -> Play:
    exchange = made.dispatch(path, body)
    assert exchange is not None
    return play(exchange, *script)


def refusal(made: Dispatcher, path: str, body: dict[str, Any], *script: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        ask(made, path, body, *script)
    return caught.value.error, caught.value.status_code


# create


def test_a_model_is_made_from_a_served_one(made: Dispatcher) -> None:
    assert ask(made, "/api/create", PIRATE, SMOL).parts == [{"status": "success"}]
    assert made.resolver.served("Pirate:latest") == "smol"
    assert made.resolver.profile("pirate") == Profile.model_validate(
        {"from": "smol", "system": "Arr", "parameters": {"temperature": 0.1}}
    )


def test_a_stream_tells_the_steps(made: Dispatcher) -> None:
    assert [part["status"] for part in ask(made, "/api/create", {**PIRATE, "stream": True}, SMOL).parts] == [
        "using existing model smol",
        "writing manifest",
        "success",
    ]


def test_a_model_is_made_from_a_made_one(made: Dispatcher) -> None:
    ask(made, "/api/create", PIRATE, SMOL)
    ask(made, "/api/create", {"model": "captain", "from": "pirate", "parameters": {"top_k": 5}})
    captain = made.resolver.profile("captain")
    assert (captain.system, captain.parameters) == ("Arr", {"temperature": 0.1, "top_k": 5})
    assert made.resolver.served("captain") == "smol"


def test_making_it_again_replaces_it(made: Dispatcher) -> None:
    ask(made, "/api/create", PIRATE, SMOL)
    ask(made, "/api/create", {**PIRATE, "system": "Ahoy"})
    assert made.resolver.profile("pirate").system == "Ahoy"


@pytest.mark.parametrize(
    ("body", "text", "status"),
    [
        ({**PIRATE, "model": "a b//c"}, "invalid model name", 400),
        ({"model": "pirate"}, "neither 'from' or 'files' was specified", 400),
        ({**PIRATE, "files": {"a": "b"}}, "files is not available on vLLM", 501),
        ({**PIRATE, "adapters": {"a": "b"}}, "adapters is not available on vLLM", 501),
        ({**PIRATE, "quantize": "q4_0"}, "quantize is not available on vLLM", 501),
        ({**PIRATE, "model": "fixed"}, "'fixed' is a profile in the file that OLLAMA_COMPAT_CONFIG names", 501),
    ],
)
def test_what_cant_be_made(made: Dispatcher, body: dict[str, Any], text: str, status: int) -> None:
    error, code = refusal(made, "/api/create", body)
    assert error.startswith(text)
    assert code == status


def test_nothing_is_made_from_what_is_not_served(made: Dispatcher) -> None:
    assert refusal(made, "/api/create", {**PIRATE, "from": "nope"}, SMOL)[1] == 404
    assert "pirate" not in list(made.resolver)


def test_a_wrong_option_is_found_when_the_model_is_made(made: Dispatcher) -> None:
    body = {**PIRATE, "parameters": {"temperature": "hot"}}
    text, status = refusal(made, "/api/create", body, SMOL)
    assert text in (
        'parameters: option "temperature" must be of type float32',
        'option "temperature" must be of type float32',
    )
    assert status in (400, 500)


def test_a_template_is_kept_and_inherited(made: Dispatcher) -> None:
    ask(made, "/api/create", {**PIRATE, "template": "{{ .Prompt }}"}, SMOL)
    ask(made, "/api/create", {"model": "captain", "from": "pirate"})
    assert made.resolver.profile("captain").template == "{{ .Prompt }}"
    ask(made, "/api/create", {"model": "admiral", "from": "pirate", "template": "{{ .System }}"})
    assert made.resolver.profile("admiral").template == "{{ .System }}"


def test_a_wrong_template_is_found_when_the_model_is_made(made: Dispatcher) -> None:
    body = {**PIRATE, "template": "a\n{{ if .X }}"}
    error = "template: line 2: the template ends before the {{end}} of a block"
    assert refusal(made, "/api/create", body, SMOL) == (error, 400)
    assert "pirate" not in list(made.resolver)


# copy


def test_a_copy_is_the_same_model(made: Dispatcher) -> None:
    ask(made, "/api/create", PIRATE, SMOL)
    ask(made, "/api/copy", {"source": "pirate", "destination": "corsair"})
    assert made.resolver.profile("corsair") == made.resolver.profile("pirate")


def test_a_copy_of_a_served_model_is_a_further_name(made: Dispatcher) -> None:
    ask(made, "/api/copy", {"source": "smol", "destination": "small"}, SMOL)
    assert made.resolver.served("small") == "smol"


@pytest.mark.parametrize(
    ("body", "text", "status"),
    [
        ({"source": "nope", "destination": "b"}, 'model "nope" not found', 404),
        ({"source": "a b//c", "destination": "b"}, 'source "a b//c" is invalid', 400),
        ({"source": "smol", "destination": "a b//c"}, 'destination "a b//c" is invalid', 400),
    ],
)
def test_what_cant_be_copied(made: Dispatcher, body: dict[str, Any], text: str, status: int) -> None:
    ask(made, "/api/tags", {}, SMOL)
    script = [SMOL] if status == 404 else []
    assert refusal(made, "/api/copy", body, *script) == (text, status)


# delete


def test_a_made_model_can_be_deleted(made: Dispatcher) -> None:
    ask(made, "/api/create", PIRATE, SMOL)
    ask(made, "/api/delete", {"model": "PIRATE"})
    assert "pirate" not in list(made.resolver)


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("nope", "model 'nope' not found", 404),
        ("smol", f"'smol' is served by {URL}: to remove it, stop that vLLM server", 501),
    ],
)
def test_a_served_model_cant_be_deleted(made: Dispatcher, name: str, text: str, status: int) -> None:
    assert refusal(made, "/api/delete", {"model": name}, SMOL) == (text, status)


def test_a_profile_of_the_settings_cant_be_deleted(made: Dispatcher) -> None:
    assert refusal(made, "/api/delete", {"model": "fixed"})[1] == 501


def test_made_models_are_listed(made: Dispatcher) -> None:
    ask(made, "/api/create", PIRATE, SMOL)
    listed = ask(made, "/api/tags", {}, SMOL).parts[0]["models"]
    assert [model["name"] for model in listed] == ["pirate:latest", "smol:latest"]
