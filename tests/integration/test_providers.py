"""A provider that is a real vLLM server underneath, asked in OpenAI's words, answers as the server itself does."""

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
    """A client whose own servers are away."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[providers.cloud]\nbase_url = "{chat_server.url}/v1"\ndialect = "{request.param}"\n'
        'models = { tools = "smoltools" }\n'
    )
    failover = {"smol": "cloud:smol", "smoltools": "cloud:tools"}
    return connect(vllm_urls=NOWHERE, vllm_failover=failover, ollama_compat_config=str(config))


def told(reply):
    """A reply without its times."""
    return reply.model_dump(exclude=TIMES, exclude_none=True)


def test_a_chat_is_the_same(direct, provided):
    assert told(provided.chat("smol", HI, options=SURE)) == told(direct.chat("smol", HI, options=SURE))


def test_a_stream_says_the_same(direct, provided):
    streams = [asker.chat("smol", HI, options=SURE, stream=True) for asker in (provided, direct)]
    texts = ["".join(part.message.content for part in stream) for stream in streams]
    assert texts[0] == texts[1] != ""
    assert told(streams[0][-1]) == told(streams[1][-1])


def test_the_log_probabilities_are_of_the_same_tokens(direct, provided):
    for limit in (4, 200):  # cut off, and ended by the model
        options = {**SURE, "num_predict": limit}
        replies = [asker.chat("smol", CAPITAL, options=options, logprobs=True) for asker in (provided, direct)]
        tokens = [[each.token for each in reply.logprobs] for reply in replies]
        assert tokens[0] == tokens[1] != []


def test_a_tool_is_called(provided):
    reply = provided.chat("smoltools", QUESTION, tools=[WEATHER], options={**SURE, "num_predict": 64})
    (call,) = reply.message.tool_calls
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Paris"})
