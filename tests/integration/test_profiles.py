"""`create`, `copy` and `delete` with a real server: profiles are permanent, and concurrent writers lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import ollama_compat as ollama

from .test_chat import QUESTION

pytestmark = pytest.mark.vllm

GREEDY = {"temperature": 0, "num_predict": 4}


@pytest.fixture
def client(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


def test_created_model_uses_its_system_prompt_and_parameters(client):
    assert client.create("mario", from_="smol", system="You are Mario.", parameters=GREEDY).status == "success"
    plain = client.chat("smol", QUESTION, options=GREEDY)
    mario = client.chat("mario:latest", QUESTION)
    assert (mario.eval_count, mario.done_reason, mario.model) == (4, "length", "mario:latest")
    assert mario.prompt_eval_count > plain.prompt_eval_count
    shown = client.show("mario")
    assert "num_predict" in shown.parameters
    assert 'SYSTEM """You are Mario."""' in shown.modelfile
    assert "mario:latest" in [model.model for model in client.list().models]


def test_create_streams_progress(client):
    statuses = [part.status for part in client.create("mario", from_="smol", system="x", stream=True)]
    assert statuses[-2:] == ["writing manifest", "success"]


def test_model_created_from_created_model_inherits(client):
    client.create("base", from_="smol", system="You are terse.", parameters={"temperature": 0, "num_predict": 9})
    client.create("child", from_="base", parameters={"num_predict": 2})
    reply = client.chat("child", QUESTION)
    assert (reply.eval_count, reply.prompt_eval_count) == (2, 26)


def test_messages_of_created_model_precede_every_conversation(client):
    before = [{"role": "user", "content": "Be short."}, {"role": "assistant", "content": "Yes."}]
    client.create("short", from_="smol", messages=before)
    created = client.chat("short", QUESTION, options=GREEDY).prompt_eval_count
    assert created == client.chat("smol", [*before, *QUESTION], options=GREEDY).prompt_eval_count


def test_copy_creates_model_and_delete_removes_it(client):
    assert client.copy("smol", "smolcopy").status == "success"
    assert client.chat("smolcopy", QUESTION, options=GREEDY).eval_count == 4
    assert client.delete("smolcopy").status == "success"
    with pytest.raises(ollama.ResponseError, match="model 'smolcopy' not found"):
        client.chat("smolcopy", QUESTION)


def test_created_model_is_visible_to_other_processes(client, chat_server):
    client.create("mario", from_="smol", parameters=GREEDY)
    script = "import ollama_compat as o; print(o.chat('mario', [{'role': 'user', 'content': 'hi'}]).eval_count)"
    environment = {"BACKEND_MODE": "vllm", "VLLM_URLS": chat_server.url, **_environment()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"


def test_concurrent_writes_of_processes_lose_nothing(client, tmp_path):
    script = (
        "import sys; from pathlib import Path; from ollama_compat.profiles.store import ProfileFile; "
        "from ollama_compat.settings import Profile\n"
        "for i in range(20): ProfileFile(Path(sys.argv[1])).put(f'{sys.argv[2]}{i}', Profile.model_validate({}))"
    )
    folder = tmp_path / "shared"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(folder), name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(json.loads((folder / "profiles.json").read_text("utf-8"))) == 60


@pytest.mark.parametrize(
    ("call", "arguments", "status", "text"),
    [
        ("create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ("create", {"model": "a b//c", "from_": "smol"}, 400, "invalid model name"),
        ("copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("copy", {"source": "smol", "destination": "a b//c"}, 400, 'destination "a b//c" is invalid'),
        ("delete", {"model": "nope"}, 404, "model 'nope' not found"),
    ],
)
def test_rejections_have_ollama_status_and_text(client, call, arguments, status, text):
    with pytest.raises(ollama.ResponseError) as raised:
        getattr(client, call)(**arguments)
    assert (raised.value.status_code, raised.value.error) == (status, text)


def test_error_names_remedy_when_other_weights_are_needed(client):
    with pytest.raises(ollama.ResponseError, match="--enable-lora"):
        client.create("x", from_="smol", adapters={"a.gguf": "sha256:0"})
    with pytest.raises(ollama.ResponseError, match="stop that vLLM server"):
        client.delete("smol")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "BACKEND_MODE"))}
