"""Thinking on real vLLM servers with a reasoning parser.

`deepseek_r1` returns every text as `reasoning`. `qwen3` does so if the request does not set `enable_thinking`.
`deepseek_v3` (used for EXAONE 4) follows `enable_thinking`.
"""

from __future__ import annotations

import pytest

from .test_chat import QUESTION, SURE

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.parametrize("reasoning_server", ["deepseek_r1", "qwen3", "deepseek_v3"], indirect=True),
]

PROMPT = QUESTION[0]["content"]


def answer_and_thinking(parts, call):
    messages = [part.message if call == "chat" else part for part in parts]
    answer = "".join((message.content if call == "chat" else message.response) or "" for message in messages)
    return answer, "".join(message.thinking or "" for message in messages)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ["chat", "generate"])
@pytest.mark.parametrize("think", [None, False])
def test_answer_is_not_returned_as_thinking_when_thinking_is_off(connect, reasoning_server, call, think, stream):
    ask = connect(vllm_urls=reasoning_server.url)
    question = QUESTION if call == "chat" else PROMPT
    reply = getattr(ask, call)(reasoning_server.model, question, think=think, options=SURE, stream=stream)
    answer, thinking = answer_and_thinking(reply if stream else [reply], call)
    assert "Paris" in answer
    assert thinking == ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ["chat", "generate"])
def test_reasoning_text_is_returned_as_thinking(connect, reasoning_server, call, stream):
    ask = connect(vllm_urls=reasoning_server.url)
    question = QUESTION if call == "chat" else PROMPT
    reply = getattr(ask, call)(reasoning_server.model, question, think=True, options=SURE, stream=stream)
    _, thinking = answer_and_thinking(reply if stream else [reply], call)
    assert "Paris" in thinking


def test_profile_turns_thinking_off_when_think_is_unset(connect, reasoning_server, tmp_path):
    """The profile that the documentation gives for EXAONE 4."""
    config = tmp_path / "compat.toml"
    config.write_text(f"[models.{reasoning_server.model}.thinking]\ndefault = false\nswitch = 'enable_thinking'\n")
    ask = connect(vllm_urls=reasoning_server.url, ollama_compat_config=str(config))
    reply = ask.chat(reasoning_server.model, QUESTION, options=SURE)
    assert (reply.message.content, reply.message.thinking, reply.prompt_eval_count) == ("Paris", None, 54)
