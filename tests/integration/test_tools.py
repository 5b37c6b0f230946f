"""Tools on a real vLLM server with a tool parser: given as dict, type and function; in plain and streamed replies."""

from __future__ import annotations

import pytest

import ollama_compat as ollama

pytestmark = pytest.mark.vllm

QUESTION = [{"role": "user", "content": "Weather in Paris?"}]
SURE = {"temperature": 0, "seed": 7, "num_predict": 64}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def get_weather(city: str) -> str:
    """Get the weather of a city

    Args:
      city: The city
    """
    return f"11 degrees in {city}"


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


@pytest.mark.parametrize(
    "tool", [WEATHER, ollama.Tool.model_validate(WEATHER), get_weather], ids=["dict", "Tool", "def"]
)
def test_model_calls_a_tool(ask, tool):
    reply = ask.chat("smoltools", QUESTION, tools=[tool], options=SURE)
    (call,) = reply.message.tool_calls
    assert isinstance(call, ollama.Message.ToolCall)
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert (reply.message.content, reply.done_reason) == ("", "stop")


def test_streamed_tool_call_arrives_complete_in_one_part(ask):
    *parts, last = ask.chat("smoltools", QUESTION, tools=[WEATHER], options=SURE, stream=True)
    (call,) = [call for part in parts for call in part.message.tool_calls or ()]
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert [(part.done, part.message.content) for part in parts] == [(False, "")] * len(parts)
    assert (last.done, last.done_reason, last.message.tool_calls) == (True, "stop", None)


def test_tool_result_is_sent_back(ask):
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    history = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "11 degrees", "tool_name": "get_weather"},
    ]
    reply = ask.chat("smoltools", history, tools=[WEATHER], options=SURE)
    assert "11 degrees" in reply.message.content
    assert ask.chat("smol", history, options=SURE).done  # the history contains tool calls, the request offers no tools


def test_message_of_a_reply_is_accepted_in_the_history(ask):
    reply = ask.chat("smoltools", QUESTION, tools=[WEATHER], options=SURE)
    history = [*QUESTION, reply.message, {"role": "tool", "content": "11 degrees", "tool_name": "get_weather"}]
    assert "11 degrees" in ask.chat("smoltools", history, tools=[WEATHER], options=SURE).message.content


@pytest.mark.parametrize("stream", [False, True])
def test_call_of_a_tool_that_was_not_offered_is_dropped(ask, stream):
    reply = ask.chat("smoltools", QUESTION, tools=[TIME], options=SURE, stream=stream)
    last = reply[-1] if stream else reply
    assert (last.message.content, last.message.tool_calls, last.done_reason) == ("", None, "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_tool_call_that_num_predict_cuts_off_is_dropped(ask, stream):
    reply = ask.chat("smoltools", QUESTION, tools=[WEATHER], options={**SURE, "num_predict": 20}, stream=stream)
    parts = reply if stream else [reply]
    assert not any(part.message.tool_calls for part in parts)
    assert parts[-1].done_reason == "length"


def test_empty_list_of_tools_equals_no_tools(ask):
    reply = ask.chat("smol", [{"role": "user", "content": "What is the capital of France?"}], tools=[], options=SURE)
    assert reply.message.content == "The capital of France is Paris."


def test_tool_without_a_function_is_dropped(ask):
    assert ask.chat("smoltools", QUESTION, tools=[{"type": "function"}], options=SURE).done


def test_profile_without_capabilities_rejects_tools_and_thinking(connect, chat_server, tmp_path):
    config = tmp_path / "compat.toml"
    config.write_text('[models.smol]\ncapabilities = ["completion"]\n')
    ask = connect(vllm_urls=chat_server.url, ollama_compat_config=str(config))
    with pytest.raises(ollama.ResponseError) as raised:
        ask.chat("smol", QUESTION, tools=[WEATHER])
    assert raised.value.error == "registry.ollama.ai/library/smol:latest does not support tools"
    with pytest.raises(ollama.ResponseError, match='"smol" does not support thinking'):
        ask.chat("smol", QUESTION, think=True)
