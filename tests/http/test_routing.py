"""Which backend answers: vLLM or Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import ollama
import pytest

from ollama_compat import ResponseError

from .caller import Caller
from .network import URL, Network, document

Connect = Callable[..., Caller]
OLLAMA = "http://ollama:11434"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
DONE = {"model": "m", "done": True, "message": {"role": "assistant", "content": "Hi"}}

CALLS: list[tuple[str, dict[str, Any], str, Any]] = [
    ("chat", {"model": "m", **HI}, "/api/chat", DONE),
    ("generate", {"model": "m", "prompt": "hi"}, "/api/generate", {"model": "m", "response": "Hi"}),
    ("embed", {"model": "m", "input": "hi"}, "/api/embed", {"embeddings": [[1.0]]}),
    ("embeddings", {"model": "m", "prompt": "hi"}, "/api/embeddings", {"embedding": [1.0]}),
    ("show", {"model": "m"}, "/api/show", {"model_info": {}}),
    ("pull", {"model": "m"}, "/api/pull", {"status": "success"}),
    ("push", {"model": "m"}, "/api/push", {"status": "success"}),
    ("create", {"model": "m", "from_": "n"}, "/api/create", {"status": "success"}),
    ("copy", {"source": "m", "destination": "n"}, "/api/copy", {}),
    ("delete", {"model": "m"}, "/api/delete", {}),
    ("list", {}, "/api/tags", {"models": []}),
    ("ps", {}, "/api/ps", {"models": []}),
]
OF_A_MODEL = [call for call in CALLS if call[1]]


@pytest.fixture
def ollama_host(network: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """An Ollama server next to vLLM."""
    monkeypatch.setenv("OLLAMA_HOST", OLLAMA)
    for _, _, path, answer in CALLS:
        network.on(OLLAMA + path, document(answer))
    return network


def as_the_official_client(network: Network, method: str, arguments: dict[str, Any]) -> httpx.Request:
    """The request that the official client sends."""
    with ollama.Client(transport=network.transport()) as client:
        getattr(client, method)(**arguments)
    return network.requests.pop()


def differences(request: httpx.Request, other: httpx.Request) -> list[str]:
    """The fields in which two requests differ."""
    seen = [{"method": r.method, "url": str(r.url), "body": r.content, **r.headers} for r in (request, other)]
    return [name for name in {**seen[0], **seen[1]} if seen[0].get(name) != seen[1].get(name)]


@pytest.mark.parametrize(("method", "arguments", "path", "answer"), CALLS, ids=lambda value: str(value)[:12])
def test_mode_ollama_sends_every_call_to_ollama_unchanged(
    connect: Connect, ollama_host: Network, method: str, arguments: dict[str, Any], path: str, answer: Any
) -> None:
    official = as_the_official_client(ollama_host, method, arguments)
    getattr(connect(backend_mode="ollama"), method)(**arguments)
    assert ollama_host.urls == [OLLAMA + path]
    assert differences(ollama_host.last, official) == []


@pytest.mark.parametrize("suffix", [":cloud", "-cloud", ":20B-CLOUD"])
@pytest.mark.parametrize(("method", "arguments", "path", "answer"), OF_A_MODEL, ids=lambda value: str(value)[:12])
def test_cloud_model_is_sent_to_ollama_unchanged(
    connect: Connect, ollama_host: Network, method: str, arguments: dict[str, Any], path: str, answer: Any, suffix: str
) -> None:
    first, *rest = arguments.items()
    cloud = dict([(first[0], first[1] + suffix), *rest])
    official = as_the_official_client(ollama_host, method, cloud)
    getattr(connect(vllm_api_key="sesame"), method)(**cloud)
    assert ollama_host.urls == [OLLAMA + path]
    assert differences(ollama_host.last, official) == []


def test_mode_vllm_sends_nothing_to_ollama(connect: Connect, ollama_host: Network) -> None:
    connect().chat(model="smol", **HI)
    assert all(url.startswith(URL) for url in ollama_host.urls)


def test_cloud_model_is_sent_with_the_key_of_ollama(
    connect: Connect, ollama_host: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "ollamas-own")
    connect(vllm_api_key="sesame").chat(model="gpt-oss:120b-cloud", **HI)
    assert ollama_host.last.headers["authorization"] == "Bearer ollamas-own"


@pytest.mark.parametrize("mode", ["ollama", "vllm"])
@pytest.mark.parametrize(
    ("method", "argument", "answer"),
    [
        ("web_search", {"query": "vllm"}, {"results": []}),
        ("web_fetch", {"url": "http://a"}, {"title": "", "content": "", "links": []}),
    ],
)
def test_web_tools_are_sent_to_the_ollama_cloud(
    connect: Connect, network: Network, mode: str, method: str, argument: Any, answer: Any
) -> None:
    network.on(f"https://ollama.com/api/{method}", document(answer))
    caller = connect(backend_mode=mode, vllm_api_key="sesame", headers={"Authorization": "Bearer ollamas-own"})
    getattr(caller, method)(**argument)
    assert network.urls == [f"https://ollama.com/api/{method}"]
    assert network.last.headers["authorization"] == "Bearer ollamas-own"


def test_host_argument_selects_the_ollama_server(connect: Connect, ollama_host: Network) -> None:
    ollama_host.on("http://other:1/api/tags", document({"models": []}))
    connect(backend_mode="ollama", host="http://other:1").list()
    assert ollama_host.urls == ["http://other:1/api/tags"]


# Names


@pytest.mark.parametrize(
    "name", ["smol", "SMOL", "smol:latest", "library/smol", "registry.ollama.ai/library/smol:latest"]
)
def test_served_name_is_accepted_in_every_ollama_form(caller: Caller, network: Network, name: str) -> None:
    assert caller.chat(model=name, **HI).model == name
    assert network.body["model"] == "smol"


@pytest.mark.parametrize("name", ["exaone3.5:7.8b", "EXAONE3.5:7.8B", "library/exaone3.5:7.8b"])
def test_model_name_is_mapped(connect: Connect, network: Network, name: str) -> None:
    caller = connect(vllm_model_map=json.dumps({"exaone3.5:7.8b": "smol"}))
    assert caller.chat(model=name, **HI).model == name
    assert network.body["model"] == "smol"


def test_profile_sets_model_system_prompt_and_options(connect: Connect, network: Network, tmp_path: Any) -> None:
    toml = tmp_path / "c.toml"
    toml.write_text('[models.pirate]\nfrom = "smol"\nsystem = "Arr"\nparameters = {temperature = 0.1, top_k = 5}\n')
    caller = connect(ollama_compat_config=toml)
    assert caller.chat(model="Pirate:latest", **HI, options={"top_k": 7}).model == "Pirate:latest"
    assert network.body["model"] == "smol"
    assert network.body["messages"][0] == {"role": "system", "content": "Arr"}
    assert (network.body["temperature"], network.body["top_k"]) == (0.1, 7)


@pytest.mark.parametrize(
    ("method", "arguments", "status", "text"),
    [
        ("chat", HI, 404, "model 'nope' not found"),
        ("generate", {"prompt": "hi"}, 404, "model 'nope' not found"),
        ("embed", {"input": "hi"}, 404, 'model "nope" not found, try pulling it first'),
        ("embeddings", {"prompt": "hi"}, 404, 'model "nope" not found, try pulling it first'),
        ("show", {}, 404, "model 'nope:latest' not found"),
    ],
)
def test_unknown_model_raises_the_404_of_ollama(
    caller: Caller, method: str, arguments: dict[str, Any], status: int, text: str
) -> None:
    with pytest.raises(ResponseError) as caught:
        getattr(caller, method)(model="nope", **arguments)
    assert (caught.value.status_code, caught.value.error) == (status, text)


def test_pull_of_an_unserved_model_names_the_variables(caller: Caller) -> None:
    with pytest.raises(ResponseError, match=f"none of {URL} serves.*VLLM_URLS.*VLLM_MODEL_MAP"):
        caller.pull("nope")


def test_unsupported_operation_raises_501(caller: Caller, network: Network) -> None:
    with pytest.raises(ResponseError, match="/api/push is not available on vLLM") as caught:
        caller.push("smol")
    assert caught.value.status_code == 501
    assert network.requests == []


def test_create_blob_raises_error(caller: Caller, tmp_path: Any) -> None:
    (tmp_path / "weights").write_bytes(b"x")
    with pytest.raises(ResponseError, match="/api/blobs is not available on vLLM"):
        caller.create_blob(tmp_path / "weights")
