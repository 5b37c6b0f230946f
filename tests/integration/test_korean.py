"""Korean text on a real multilingual model, and the errors of a server with an API key and without a tool parser."""

from __future__ import annotations

import pytest

import ollama_compat as ollama

pytestmark = pytest.mark.vllm

PROMPT = "<bos>Q: 대한민국의 수도는 어디입니까?\nA:"
SURE = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def ask(connect, korean_server):
    return connect(vllm_urls=korean_server.url, vllm_api_key=korean_server.api_key)


def test_generate_answers_a_korean_question(ask):
    reply = ask.generate("gemma270", PROMPT, raw=True, options=SURE)
    assert "서울" in reply.response
    assert (reply.prompt_eval_count, reply.eval_count) == (15, 24)


def test_stream_never_splits_a_korean_character(ask):
    whole = ask.generate("gemma270", PROMPT, raw=True, options=SURE).response
    parts = ask.generate("gemma270", PROMPT, raw=True, options=SURE, stream=True)
    assert "".join(part.response for part in parts) == whole
    assert not any("\ufffd" in part.response for part in parts)
    assert len(parts) > 1  # vLLM decides how many tokens an event contains; the last part has no text


def test_chat_answers_a_korean_question(ask):
    messages = [{"role": "user", "content": "Q: 대한민국의 수도는 어디입니까?\nA:"}]
    assert "서울" in ask.chat("gemma270", messages, options=SURE).message.content


def test_stream_never_splits_an_emoji(ask):
    parts = ask.generate("gemma270", "<bos>🙂 🙃 🙂 🙃 🙂", raw=True, options=SURE, stream=True)
    assert not any("\ufffd" in part.response for part in parts)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_wrong_api_key_error_names_the_variable_without_the_key(connect, korean_server, key):
    with pytest.raises(ollama.ResponseError, match="VLLM_API_KEY") as raised:
        connect(vllm_urls=korean_server.url, vllm_api_key=key).generate("gemma270", PROMPT)
    assert raised.value.status_code == 401
    assert "wrong" not in str(raised.value)


def test_tools_without_a_tool_parser_name_the_missing_flag(ask):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(ollama.ResponseError, match="--enable-auto-tool-choice --tool-call-parser") as raised:
        ask.chat("gemma270", [{"role": "user", "content": "hi"}], tools=[tool])
    assert raised.value.status_code == 400


def test_think_is_rejected_for_a_model_without_thinking(ask):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.chat("gemma270", [{"role": "user", "content": "hi"}], think=True)
    assert (raised.value.error, raised.value.status_code) == ('"gemma270" does not support thinking', 400)
    assert ask.chat("gemma270", [{"role": "user", "content": "hi"}], think=False, options=SURE).done
