"""Thinking on a real vLLM server without a reasoning parser: the text contains the thinking tags."""

from __future__ import annotations

import pytest

import ollama_compat as ollama

from .test_chat import QUESTION, SURE

pytestmark = pytest.mark.vllm

PROMPT = QUESTION[0]["content"]


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


@pytest.fixture
def ask_thinker(connect, chat_server, tmp_path):
    config = tmp_path / "compat.toml"
    config.write_text("[models.smolthink.thinking]\ndefault = true\nswitch = 'enable_thinking'\n")
    return connect(vllm_urls=chat_server.url, ollama_compat_config=str(config))


@pytest.mark.parametrize("think", [True, "high", "low"])
def test_thinking_that_the_template_opened_is_separated_from_the_answer(ask, think):
    reply = ask.chat("smolthink", QUESTION, think=think, options=SURE)
    assert reply.message.thinking == "The capital of France is Paris.\n"
    assert reply.message.content.startswith("Paris")
    assert reply.prompt_eval_count == 88


def test_stream_sends_thinking_before_content(ask):
    parts = ask.chat("smolthink", QUESTION, think=True, options=SURE, stream=True)
    assert "".join(part.message.thinking or "" for part in parts) == "The capital of France is Paris.\n"
    assert "".join(part.message.content for part in parts).startswith("Paris")
    last_thinking = max(i for i, part in enumerate(parts) if part.message.thinking)
    first_content = min(i for i, part in enumerate(parts) if part.message.content)
    assert last_thinking <= first_content  # equal if vLLM puts the closing tag and the answer into one event
    assert all(isinstance(part.message.content, str) for part in parts)


def test_generate_returns_thinking(ask):
    reply = ask.generate("smolthink", PROMPT, think=True, options=SURE)
    assert (reply.thinking, reply.response[:5]) == ("The capital of France is Paris.\n", "Paris")


def test_think_false_returns_an_answer_without_thinking(ask):
    reply = ask.chat("smolthink", QUESTION, think=False, options=SURE)
    assert (reply.message.content, reply.message.thinking, reply.prompt_eval_count) == ("Paris", None, 54)


def test_profile_sets_the_default_of_think(ask_thinker, ask):
    assert ask_thinker.chat("smolthink", QUESTION, options=SURE).message.thinking
    assert ask.chat("smolthink", QUESTION, options=SURE).message.thinking is None


def test_thinking_that_num_predict_cuts_off_is_returned_as_thinking(ask):
    reply = ask.chat("smolthink", QUESTION, think=True, options={**SURE, "num_predict": 4})
    assert (reply.message.thinking, reply.message.content) == ("The capital of France", "")
    assert reply.done_reason == "length"


def test_stop_string_applies_only_to_the_answer(ask):
    reply = ask.chat("smolthink", QUESTION, think=True, options={**SURE, "stop": ["capital"]})
    assert reply.message.thinking == "The capital of France is Paris.\n"
    assert reply.message.content == "Paris is the "


def test_thinking_in_the_history_is_accepted(ask):
    history = [*QUESTION, {"role": "assistant", "thinking": "hm", "content": "Paris."}, *QUESTION]
    assert ask.chat("smolthink", history, think=True, options=SURE).prompt_eval_count > 88


def test_unknown_think_level_is_rejected(ask):
    with pytest.raises(ollama.ResponseError, match='invalid think value: "maybe"'):
        ask.chat("smolthink", QUESTION, think="maybe")


def test_template_that_always_opens_thinking_is_detected_from_the_first_answer(connect, chat_server, tmp_path):
    """The model name is in no table, no profile configures thinking, and `think` is unset."""
    config = tmp_path / "compat.toml"
    config.write_text('[models.assistant]\nfrom = "smol"\nchat_template_kwargs = { modelfile = "always" }\n')
    ask = connect(vllm_urls=chat_server.url, ollama_compat_config=str(config))
    for stream in (True, False, True):
        reply = ask.chat("assistant", QUESTION, options=SURE, stream=stream)
        parts = reply if stream else [reply]
        assert "".join(part.message.thinking or "" for part in parts) == "The capital of France is Paris.\n"
        assert "".join(part.message.content for part in parts).startswith("Paris")
