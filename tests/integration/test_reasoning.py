"""Thinking on real vLLM servers with a reasoning parser, which tells thoughts from the answer, or takes all for one.

`deepseek_r1` calls every text `reasoning`, `qwen3` does where thinking was not spoken of, `deepseek_v3` (EXAONE 4's)
listens to `enable_thinking`.
"""

from __future__ import annotations

import pytest

from .test_chat import QUESTION, SURE

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.parametrize("reasoning_server", ["deepseek_r1", "qwen3", "deepseek_v3"], indirect=True),
]

PROMPT = QUESTION[0]["content"]


def said_and_thought(parts, call):
    messages = [part.message if call == "chat" else part for part in parts]
    said = "".join((message.content if call == "chat" else message.response) or "" for message in messages)
    return said, "".join(message.thinking or "" for message in messages)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ["chat", "generate"])
@pytest.mark.parametrize("think", [None, False])
def test_without_thinking_no_answer_is_taken_for_a_thought(connect, reasoning_server, call, think, stream):
    ask = connect(vllm_urls=reasoning_server.url)
    asked = QUESTION if call == "chat" else PROMPT
    reply = getattr(ask, call)(reasoning_server.model, asked, think=think, options=SURE, stream=stream)
    said, thought = said_and_thought(reply if stream else [reply], call)
    assert "Paris" in said
    assert thought == ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ["chat", "generate"])
def test_with_thinking_the_thought_is_the_servers(connect, reasoning_server, call, stream):
    ask = connect(vllm_urls=reasoning_server.url)
    asked = QUESTION if call == "chat" else PROMPT
    reply = getattr(ask, call)(reasoning_server.model, asked, think=True, options=SURE, stream=stream)
    _, thought = said_and_thought(reply if stream else [reply], call)
    assert "Paris" in thought


def test_a_profile_that_does_not_think_unasked(connect, reasoning_server, tmp_path):
    """As EXAONE 4 is to be: an unset `think` stays off."""
    config = tmp_path / "compat.toml"
    config.write_text(f"[models.{reasoning_server.model}.thinking]\ndefault = false\nswitch = 'enable_thinking'\n")
    ask = connect(vllm_urls=reasoning_server.url, ollama_compat_config=str(config))
    reply = ask.chat(reasoning_server.model, QUESTION, options=SURE)
    assert (reply.message.content, reply.message.thinking, reply.prompt_eval_count) == ("Paris", None, 54)
