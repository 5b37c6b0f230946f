"""`list`, `show`, `ps`, `pull` and `openai()` on real vLLM servers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import ollama_compat as ollama

pytestmark = pytest.mark.vllm


@pytest.fixture
def ask(connect, chat_server, embed_server):
    return connect(vllm_urls=f"{chat_server.url}/v1,{embed_server.url}", vllm_model_map={"daynice/kure-v1": "minilm"})


def test_list_returns_mapped_and_served_models(ask):
    reply = ask.list()
    assert isinstance(reply, ollama.ListResponse)
    assert [model.model for model in reply.models] == [
        "daynice/kure-v1:latest",
        "smol:latest",
        "smoltools:latest",
        "smolthink:latest",
    ]
    for model in reply.models:
        assert ask.show(model.model).capabilities


def test_ps_returns_served_models_that_stay_loaded(ask):
    reply = ask.ps()
    assert isinstance(reply, ollama.ProcessResponse)
    assert {model.name: model.context_length for model in reply.models} == {
        "daynice/kure-v1:latest": 256,
        "smol:latest": 2048,
        "smoltools:latest": 2048,
        "smolthink:latest": 2048,
    }
    assert all(model.expires_at > datetime.now(UTC) for model in reply.models)


def test_show_returns_capabilities_window_and_modelfile(ask):
    reply = ask.show("smol")
    assert isinstance(reply, ollama.ShowResponse)
    assert reply.capabilities == ["completion", "tools", "thinking"]
    (window,) = [value for key, value in reply.modelinfo.items() if key.endswith(".context_length")]
    assert window == 2048
    assert "FROM smol" in reply.modelfile
    assert ask.show("daynice/kure-v1").capabilities == ["embedding"]


@pytest.mark.parametrize(
    ("name", "text"), [("nope", "model 'nope:latest' not found"), ("a b//c", "invalid model name")]
)
def test_show_rejects_names_with_ollamas_errors(ask, name, text):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.show(name)
    assert raised.value.error == text


def test_pull_succeeds_for_served_models_and_explains_others(ask):
    assert ask.pull("smol").status == "success"
    assert [part.status for part in ask.pull("smol", stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="VLLM_MODEL_MAP") as raised:
        ask.pull("llama3.2")
    assert raised.value.status_code == 404


def test_push_returns_501_with_an_alternative(ask):
    with pytest.raises(ollama.ResponseError, match="is not available on vLLM: ") as raised:
        ask.push("smol")
    assert raised.value.status_code == 501


def test_systemone_returns_501_from_a_server_without_it(ask):
    with pytest.raises(ollama.ResponseError, match="does not support the structured decision API") as raised:
        ask.systemone("smol", "The sky is blue.", {"blue": {"type": "noul", "instructions": "Is it blue?"}})
    assert raised.value.status_code == 501


def test_openai_returns_a_client_for_the_server_of_a_model(chat_server, embed_server):
    urls = f"{chat_server.url},{embed_server.url}"
    with ollama.Client(backend_mode="vllm", vllm_urls=urls, vllm_model_map={"exaone": "smol"}) as client:
        with client.openai("exaone") as openai:
            reply = openai.chat.completions.create(
                model=client.served_name("exaone"),
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0,
            )
        assert reply.choices[0].message.content == "The capital of France is Paris."
        with client.openai("minilm") as openai:
            assert len(openai.embeddings.create(model="minilm", input="hello").data[0].embedding) == 384
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
            client.openai("nope")


async def test_async_openai_returns_an_async_client(chat_server):
    async with ollama.AsyncClient(backend_mode="vllm", vllm_urls=chat_server.url) as client:
        async with await client.openai("smol") as openai:
            reply = await openai.completions.create(model="smol", prompt="The capital of France is", max_tokens=1)
        assert reply.choices[0].text
