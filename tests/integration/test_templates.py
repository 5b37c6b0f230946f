"""Go templates on a real vLLM server: the recorded requests, with the template from the Modelfile of each model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import ollama_compat as ollama
from tests.asker import Asker
from tests.conformance.compare import all_differences, unexplained
from tests.conformance.recorded import Case, cases

pytestmark = pytest.mark.vllm

CONFIG = Path(__file__).with_name("templates.toml")
MODELS = ("smol", "smoltools", "smolthink", "smolfim")
PROMPT = "What is the capital of France?"
CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
LEGACY = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>"
SURE = {"temperature": 0, "seed": 7, "num_predict": 24}


@contextmanager
def client_of(url: str) -> Iterator[Asker]:
    with ollama.Client(backend_mode="vllm", vllm_urls=url, ollama_compat_config=str(CONFIG)) as client:
        yield Asker(client, None)


@pytest.fixture
def ask(chat_server) -> Iterator[Asker]:
    with client_of(chat_server.url) as client:
        yield client


def _templated(case: Case) -> bool:
    """Whether the request uses a template. A template with images is rejected, and a raw prompt uses none."""
    generates = case.method in ("chat", "generate") and case.arguments.get("model") in MODELS
    return generates and not {"raw", "images"} & set(case.arguments)


CASES = {case.name: case for case in cases()[0] if _templated(case)}


@pytest.fixture(scope="module")
def found(chat_server) -> dict[str, dict[str, str]]:
    """The differences of each answer from the recorded one, by the name of the case."""
    with client_of(chat_server.url) as client:
        return all_differences(client, CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_answer_with_a_template_matches_the_recorded_answer(found, name):
    assert unexplained(CASES[name], found[name]) == {}


@pytest.mark.parametrize("template", [CHATML, LEGACY])
def test_template_of_a_call_is_applied(ask, template):
    plain = ask.generate("smol", PROMPT, options=SURE)
    reply = ask.generate("smol", PROMPT, template=template, options=SURE)
    assert (reply.response, reply.prompt_eval_count) == (plain.response, plain.prompt_eval_count)
    assert reply.context == plain.context
    further = ask.generate("smol", "And of Spain?", template=template, context=reply.context, options=SURE)
    assert further.response == "The capital of Spain is Madrid."


def test_created_model_uses_its_template(ask):
    ask.create("mine", from_="smol", template=LEGACY)
    question = [{"role": "user", "content": PROMPT}]
    reply = ask.chat("mine", question, options=SURE)
    assert reply.prompt_eval_count == ask.chat("smol", question, options=SURE).prompt_eval_count
    assert ask.show("mine").template == LEGACY


def test_tokenize_shows_whether_a_special_first_token_is_doubled(embed_server):
    """vLLM's fact that template prompts rely on. Only the embedding model has a special first token (`[CLS]`)."""
    request = {"model": "minilm", "prompt": "[CLS]"}
    doubled, alone = (
        httpx.post(f"{embed_server.url}/tokenize", json=body, timeout=60).json()["tokens"]
        for body in (request, {**request, "add_special_tokens": False})
    )
    assert doubled[0] == doubled[1] == alone[0]
    assert len(alone) == 1
