"""A provider that is a real vLLM server behind OpenAI's API returns the same replies as the server itself."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.vllm

HI = [{"role": "user", "content": "Say hello."}]
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
QUESTION = [{"role": "user", "content": "Weather in Paris?"}]
SURE = {"temperature": 0, "seed": 7, "num_predict": 12, "top_k": 0, "repeat_penalty": 1.0}
NOWHERE = "http://127.0.0.1:9"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}
TIMES = {"created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}


@pytest.fixture
def direct(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


@pytest.fixture(params=["openai-compatible", "vllm"])
def provided(request, connect, chat_server, tmp_path):
    """A client whose own servers are unreachable and whose fallback is the provider."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[providers.cloud]\nbase_url = "{chat_server.url}/v1"\ndialect = "{request.param}"\n'
        'models = { tools = "smoltools" }\n'
    )
    failover = {"smol": "cloud:smol", "smoltools": "cloud:tools"}
    return connect(vllm_urls=NOWHERE, vllm_failover=failover, ollama_compat_config=str(config))


def untimed(reply):
    """A reply without its times and durations."""
    return reply.model_dump(exclude=TIMES, exclude_none=True)


def test_provider_returns_the_same_chat_reply(direct, provided):
    assert untimed(provided.chat("smol", HI, options=SURE)) == untimed(direct.chat("smol", HI, options=SURE))


def test_provider_streams_the_same_text(direct, provided):
    streams = [client.chat("smol", HI, options=SURE, stream=True) for client in (provided, direct)]
    texts = ["".join(part.message.content for part in stream) for stream in streams]
    assert texts[0] == texts[1] != ""
    assert untimed(streams[0][-1]) == untimed(streams[1][-1])


def test_provider_returns_logprobs_of_the_same_tokens(direct, provided):
    for limit in (4, 200):  # cut off by the limit, and finished by the model
        options = {**SURE, "num_predict": limit}
        replies = [client.chat("smol", CAPITAL, options=options, logprobs=True) for client in (provided, direct)]
        tokens = [[each.token for each in reply.logprobs] for reply in replies]
        assert tokens[0] == tokens[1] != []


def test_provider_calls_a_tool(provided):
    reply = provided.chat("smoltools", QUESTION, tools=[WEATHER], options={**SURE, "num_predict": 64})
    (call,) = reply.message.tool_calls
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Paris"})
