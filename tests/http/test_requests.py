"""The requests that each call sends: URL, method, headers and body."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from ollama_compat import ResponseError

from .caller import Caller
from .network import CHAT, RECORDED_TOOLS, URL, Answer, Network, document, stream

Connect = Callable[..., Caller]
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
VECTOR = base64.b64encode(struct.pack("<2f", 0.6, 0.8)).decode()
DEFAULTS = {
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_tokens": 2048,
}
WHOLE = {"stream": True, "stream_options": {"include_usage": True}, "stream_interval": 1_000_000}


# Bodies


def test_chat_sends_a_chat_completion(caller: Caller, network: Network) -> None:
    answer = caller.chat(**HI)
    assert (network.last.method, str(network.last.url)) == ("POST", URL + CHAT)
    assert network.body == {
        "model": "smol",
        "messages": [{"role": "user", "content": "hi"}],
        **DEFAULTS,
        **WHOLE,
        "return_prompt_text": True,
    }
    assert (answer.message.content, answer.done_reason, answer.eval_count) == ("Hello", "stop", 3)


def test_stream_is_requested_token_by_token(caller: Caller, network: Network) -> None:
    parts = caller.chat(**HI, stream=True)
    assert "stream_interval" not in network.body
    assert [part.message.content for part in parts] == ["Hel", "lo", ""]
    assert [part.done for part in parts] == [False, False, True]


def test_generate_sends_a_chat_completion_with_one_message(caller: Caller, network: Network) -> None:
    answer = caller.generate(model="smol", prompt="hi", system="Be brief")
    assert str(network.last.url) == URL + CHAT
    assert network.body["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "hi"},
    ]
    assert answer.response == "Hello"


def test_raw_generate_sends_a_completion(caller: Caller, network: Network) -> None:
    end = b'data: {"choices": [{"text": "Paris", "finish_reason": "stop"}]}\n\n'
    network.on(f"{URL}/v1/completions", stream(end))
    assert caller.generate(model="smol", prompt="hi", raw=True).response == "Paris"
    assert network.body == {"model": "smol", "prompt": "hi", **DEFAULTS, **WHOLE}


def test_embed_requests_base64(caller: Caller, network: Network) -> None:
    network.on(f"{URL}/v1/embeddings", document({"data": [{"embedding": VECTOR}], "usage": {"prompt_tokens": 2}}))
    answer = caller.embed(model="smol", input="hi")
    assert (network.last.method, str(network.last.url)) == ("POST", f"{URL}/v1/embeddings")
    assert network.body == {
        "model": "smol",
        "input": ["hi"],
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
        "truncation_side": "right",
    }
    assert answer.embeddings == [pytest.approx([0.6, 0.8])]
    assert answer.prompt_eval_count == 2


def test_embeddings_sends_one_text(caller: Caller, network: Network) -> None:
    network.on(f"{URL}/v1/embeddings", document({"data": [{"embedding": VECTOR}]}))
    answer = caller.embeddings(model="smol", prompt="hi")
    assert network.body == {"model": "smol", "input": ["hi"], "encoding_format": "base64"}
    assert answer.embedding == pytest.approx([0.6, 0.8])


def test_python_function_is_sent_as_a_tool_and_its_call_returned(caller: Caller, network: Network) -> None:
    def get_weather(city: str) -> str:
        """Get the weather.

        Args:
          city: The city
        """
        return city

    network.on(URL + CHAT, stream(RECORDED_TOOLS))
    call = caller.chat(**HI, tools=[get_weather]).message.tool_calls[0]
    assert network.body["tools"][0]["function"]["name"] == "get_weather"
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})


@pytest.mark.parametrize(("method", "path"), [("list", "/v1/models"), ("ps", "/v1/models")])
def test_list_and_ps_request_the_served_models(caller: Caller, network: Network, method: str, path: str) -> None:
    assert [model.model for model in getattr(caller, method)().models] == ["smol:latest"]
    assert [(request.method, str(request.url)) for request in network.requests] == [("GET", URL + path)]


def test_show_requests_the_paths_of_the_server(caller: Caller, network: Network) -> None:
    network.on(f"{URL}/openapi.json", document({"paths": {"/v1/embeddings": {}}}))
    assert caller.show("smol").capabilities == ["embedding"]
    assert (network.last.method, str(network.last.url)) == ("GET", f"{URL}/openapi.json")


def test_pull_of_a_served_model_sends_no_further_request(caller: Caller, network: Network) -> None:
    assert caller.pull("smol").status == "success"
    assert network.urls == [f"{URL}/v1/models"]


def test_text_is_sent_as_utf_8(caller: Caller, network: Network) -> None:
    caller.generate(model="smol", prompt="대한민국의 수도는?")
    assert "대한민국의 수도는?".encode() in network.last.content


def test_body_is_sent_as_json(caller: Caller, network: Network) -> None:
    caller.chat(**HI)
    assert network.last.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("chat", {"messages": []}),
        ("generate", {"prompt": ""}),
        ("embed", {"input": []}),
        ("embeddings", {"prompt": ""}),
    ],
)
def test_empty_call_sends_no_inference_request(caller: Caller, network: Network, method: str, arguments: Any) -> None:
    getattr(caller, method)(model="smol", **arguments)
    assert network.urls == [f"{URL}/v1/models"]


# Headers


def sent(network: Network, header: str) -> list[str | None]:
    """A header of every request."""
    return [request.headers.get(header) for request in network.requests]


def test_key_is_sent_to_every_path(connect: Connect, network: Network) -> None:
    connect(vllm_api_key="sesame").chat(**HI)
    assert sent(network, "authorization") == ["Bearer sesame"] * 2


def test_key_is_read_from_the_environment(connect: Connect, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    connect().chat(**HI)
    assert sent(network, "authorization") == ["Bearer sesame"] * 2


def test_no_authorization_is_sent_without_a_key(caller: Caller, network: Network) -> None:
    caller.chat(**HI)
    assert sent(network, "authorization") == [None] * 2


def test_key_of_ollama_is_not_sent_to_vllm(connect: Connect, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "ollamas-own")
    connect().chat(**HI)
    assert sent(network, "authorization") == [None] * 2


def test_authorization_header_of_the_user_is_sent_to_vllm(connect: Connect, network: Network) -> None:
    connect(headers={"Authorization": "Bearer mine"}).chat(**HI)
    assert sent(network, "authorization") == ["Bearer mine"] * 2


def test_key_replaces_the_authorization_header_of_the_user(connect: Connect, network: Network) -> None:
    connect(headers={"Authorization": "Bearer mine"}, vllm_api_key="sesame").chat(**HI)
    assert sent(network, "authorization") == ["Bearer sesame"] * 2


def test_key_replaces_the_auth_of_the_client(connect: Connect, network: Network) -> None:
    connect(auth=("user", "password"), vllm_api_key="sesame").chat(**HI)
    assert sent(network, "authorization") == ["Bearer sesame"] * 2


def test_headers_of_the_user_are_sent(connect: Connect, network: Network) -> None:
    connect(headers={"X-Request-Id": "abc", "X-None": None}).chat(**HI)
    assert sent(network, "x-request-id") == ["abc"] * 2
    assert sent(network, "x-none") == [None] * 2


def test_cookies_and_parameters_of_the_user_are_sent(connect: Connect, network: Network) -> None:
    network.on(f"{URL}/v1/models?team=a", document({"data": [{"id": "smol"}]}))
    network.on(f"{URL}{CHAT}?team=a", stream(RECORDED_TOOLS))
    connect(params={"team": "a"}, cookies={"c": "1"}).chat(**HI)
    assert sent(network, "cookie") == ["c=1"] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("location", ["http://other/v1/models", f"{URL}/other", "/other", "//other/"])
def test_redirect_of_the_model_list_raises_error_with_its_target(
    connect: Connect, network: Network, status: int, location: str
) -> None:
    network.on(f"{URL}/v1/models", Answer(status, location=location))
    with pytest.raises(ResponseError, match=f"redirects to {location}: put the new URL into VLLM_URLS"):
        connect(vllm_api_key="sesame").list()
    assert network.urls == [f"{URL}/v1/models"]


def test_redirect_of_a_chat_is_not_followed(caller: Caller, network: Network) -> None:
    network.on(URL + CHAT, Answer(308, location="http://other/"))
    with pytest.raises(ResponseError, match="redirects"):
        caller.chat(**HI)
    assert all(url.startswith(URL) for url in network.urls)


# openai()


def test_openai_uses_the_server_of_the_model(connect: Connect, network: Network) -> None:
    caller = connect(vllm_api_key="sesame", vllm_model_map={"small": "smol"})
    sdk = caller.openai("small")
    assert (str(sdk.base_url), sdk.api_key) == (f"{URL}/v1/", "sesame")
    assert caller.client.served_name("small") == "smol"
    caller.finish(sdk)


def test_openai_for_a_cloud_model_has_the_key_of_ollama_and_not_of_vllm(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "ollamas")
    caller = connect(vllm_api_key="sesame", host="https://o.example")
    sdk = caller.openai("gpt-oss:120b-cloud")
    assert (str(sdk.base_url), sdk.api_key) == ("https://o.example/v1/", "ollamas")
    caller.finish(sdk)
