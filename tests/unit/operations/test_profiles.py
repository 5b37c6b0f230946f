"""create, copy, delete: profiles that derive a model from a served one."""

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
def dispatcher(tmp_path: Path) -> Dispatcher:
    """A dispatcher with one server that serves `smol`, and a profile in the settings."""
    settings = Settings(backend_mode="vllm", vllm_urls=(URL,), models={"fixed": Profile(system="F")})
    return Dispatcher(settings, FakeClock(), ProfileFile(tmp_path))


def run(dispatcher: Dispatcher, path: str, body: dict[str, Any], *script: Any) -> Play:
    steps = dispatcher.dispatch(path, body)
    assert steps is not None
    return play(steps, *script)


def refusal(dispatcher: Dispatcher, path: str, body: dict[str, Any], *script: Any) -> tuple[str, int]:
    with pytest.raises(ResponseError) as caught:
        run(dispatcher, path, body, *script)
    return caught.value.error, caught.value.status_code


# create


def test_create_derives_model_from_served_model(dispatcher: Dispatcher) -> None:
    assert run(dispatcher, "/api/create", PIRATE, SMOL).parts == [{"status": "success"}]
    assert dispatcher.resolver.served("Pirate:latest") == "smol"
    assert dispatcher.resolver.profile("pirate") == Profile.model_validate(
        {"from": "smol", "system": "Arr", "parameters": {"temperature": 0.1}}
    )


def test_create_streams_status_of_each_step(dispatcher: Dispatcher) -> None:
    assert [part["status"] for part in run(dispatcher, "/api/create", {**PIRATE, "stream": True}, SMOL).parts] == [
        "using existing model smol",
        "writing manifest",
        "success",
    ]


def test_create_derives_model_from_created_model(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", PIRATE, SMOL)
    run(dispatcher, "/api/create", {"model": "captain", "from": "pirate", "parameters": {"top_k": 5}})
    captain = dispatcher.resolver.profile("captain")
    assert (captain.system, captain.parameters) == ("Arr", {"temperature": 0.1, "top_k": 5})
    assert dispatcher.resolver.served("captain") == "smol"


def test_create_replaces_existing_model(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", PIRATE, SMOL)
    run(dispatcher, "/api/create", {**PIRATE, "system": "Ahoy"})
    assert dispatcher.resolver.profile("pirate").system == "Ahoy"


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
def test_create_refuses_unsupported_request(
    dispatcher: Dispatcher, body: dict[str, Any], text: str, status: int
) -> None:
    error, code = refusal(dispatcher, "/api/create", body)
    assert error.startswith(text)
    assert code == status


def test_create_refuses_unknown_base_model(dispatcher: Dispatcher) -> None:
    assert refusal(dispatcher, "/api/create", {**PIRATE, "from": "nope"}, SMOL)[1] == 404
    assert "pirate" not in list(dispatcher.resolver)


def test_create_checks_options(dispatcher: Dispatcher) -> None:
    body = {**PIRATE, "parameters": {"temperature": "hot"}}
    text, status = refusal(dispatcher, "/api/create", body, SMOL)
    assert text in (
        'parameters: option "temperature" must be of type float32',
        'option "temperature" must be of type float32',
    )
    assert status in (400, 500)


def test_create_stores_and_inherits_template(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", {**PIRATE, "template": "{{ .Prompt }}"}, SMOL)
    run(dispatcher, "/api/create", {"model": "captain", "from": "pirate"})
    assert dispatcher.resolver.profile("captain").template == "{{ .Prompt }}"
    run(dispatcher, "/api/create", {"model": "admiral", "from": "pirate", "template": "{{ .System }}"})
    assert dispatcher.resolver.profile("admiral").template == "{{ .System }}"


def test_create_checks_template(dispatcher: Dispatcher) -> None:
    body = {**PIRATE, "template": "a\n{{ if .X }}"}
    error = "template: line 2: the template ends before the {{end}} of a block"
    assert refusal(dispatcher, "/api/create", body, SMOL) == (error, 400)
    assert "pirate" not in list(dispatcher.resolver)


# copy


def test_copy_has_profile_of_source(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", PIRATE, SMOL)
    run(dispatcher, "/api/copy", {"source": "pirate", "destination": "corsair"})
    assert dispatcher.resolver.profile("corsair") == dispatcher.resolver.profile("pirate")


def test_copy_of_served_model_adds_name(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/copy", {"source": "smol", "destination": "small"}, SMOL)
    assert dispatcher.resolver.served("small") == "smol"


@pytest.mark.parametrize(
    ("body", "text", "status"),
    [
        ({"source": "nope", "destination": "b"}, 'model "nope" not found', 404),
        ({"source": "a b//c", "destination": "b"}, 'source "a b//c" is invalid', 400),
        ({"source": "smol", "destination": "a b//c"}, 'destination "a b//c" is invalid', 400),
    ],
)
def test_copy_refuses_unknown_source_and_invalid_names(
    dispatcher: Dispatcher, body: dict[str, Any], text: str, status: int
) -> None:
    run(dispatcher, "/api/tags", {}, SMOL)
    script = [SMOL] if status == 404 else []
    assert refusal(dispatcher, "/api/copy", body, *script) == (text, status)


# delete


def test_delete_removes_created_model(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", PIRATE, SMOL)
    run(dispatcher, "/api/delete", {"model": "PIRATE"})
    assert "pirate" not in list(dispatcher.resolver)


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("nope", "model 'nope' not found", 404),
        ("smol", f"'smol' is served by {URL}: to remove it, stop that vLLM server", 501),
    ],
)
def test_delete_refuses_unknown_and_served_model(dispatcher: Dispatcher, name: str, text: str, status: int) -> None:
    assert refusal(dispatcher, "/api/delete", {"model": name}, SMOL) == (text, status)


def test_delete_refuses_profile_of_settings(dispatcher: Dispatcher) -> None:
    assert refusal(dispatcher, "/api/delete", {"model": "fixed"})[1] == 501


def test_tags_lists_created_models(dispatcher: Dispatcher) -> None:
    run(dispatcher, "/api/create", PIRATE, SMOL)
    listed = run(dispatcher, "/api/tags", {}, SMOL).parts[0]["models"]
    assert [model["name"] for model in listed] == ["pirate:latest", "smol:latest"]
