"""`create`, `copy`, `delete` over a real server: profiles last, and two processes lose nothing of each other's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import ollama_compat as ollama

from .test_chat import QUESTION

pytestmark = pytest.mark.vllm

SURE = {"temperature": 0, "num_predict": 4}


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


def test_a_created_model_has_its_system_prompt_and_its_parameters(ask):
    assert ask.create("mario", from_="smol", system="You are Mario.", parameters=SURE).status == "success"
    plain = ask.chat("smol", QUESTION, options=SURE)
    mario = ask.chat("mario:latest", QUESTION)
    assert (mario.eval_count, mario.done_reason, mario.model) == (4, "length", "mario:latest")
    assert mario.prompt_eval_count > plain.prompt_eval_count
    shown = ask.show("mario")
    assert "num_predict" in shown.parameters
    assert 'SYSTEM """You are Mario."""' in shown.modelfile
    assert "mario:latest" in [model.model for model in ask.list().models]


def test_progress_is_streamed(ask):
    statuses = [part.status for part in ask.create("mario", from_="smol", system="x", stream=True)]
    assert statuses[-2:] == ["writing manifest", "success"]


def test_a_model_made_from_a_made_one_inherits(ask):
    ask.create("base", from_="smol", system="You are terse.", parameters={"temperature": 0, "num_predict": 9})
    ask.create("child", from_="base", parameters={"num_predict": 2})
    reply = ask.chat("child", QUESTION)
    assert (reply.eval_count, reply.prompt_eval_count) == (2, 26)


def test_messages_begin_every_conversation(ask):
    turns = [{"role": "user", "content": "Be short."}, {"role": "assistant", "content": "Yes."}]
    ask.create("short", from_="smol", messages=turns)
    made = ask.chat("short", QUESTION, options=SURE).prompt_eval_count
    assert made == ask.chat("smol", [*turns, *QUESTION], options=SURE).prompt_eval_count


def test_copy_and_delete(ask):
    assert ask.copy("smol", "smolcopy").status == "success"
    assert ask.chat("smolcopy", QUESTION, options=SURE).eval_count == 4
    assert ask.delete("smolcopy").status == "success"
    with pytest.raises(ollama.ResponseError, match="model 'smolcopy' not found"):
        ask.chat("smolcopy", QUESTION)


def test_a_profile_lasts_and_other_processes_see_it(ask, chat_server):
    ask.create("mario", from_="smol", parameters=SURE)
    script = "import ollama_compat as o; print(o.chat('mario', [{'role': 'user', 'content': 'hi'}]).eval_count)"
    environment = {"BACKEND_MODE": "vllm", "VLLM_URLS": chat_server.url, **_environment()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"


def test_processes_that_write_at_once_lose_nothing(ask, tmp_path):
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
def test_refusals_are_ollamas(ask, call, arguments, status, text):
    with pytest.raises(ollama.ResponseError) as raised:
        getattr(ask, call)(**arguments)
    assert (raised.value.status_code, raised.value.error) == (status, text)


def test_what_needs_other_weights_says_what_to_do(ask):
    with pytest.raises(ollama.ResponseError, match="--enable-lora"):
        ask.create("x", from_="smol", adapters={"a.gguf": "sha256:0"})
    with pytest.raises(ollama.ResponseError, match="stop that vLLM server"):
        ask.delete("smol")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "BACKEND_MODE"))}
