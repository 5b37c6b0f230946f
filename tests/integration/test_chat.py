"""`chat` on a real vLLM server: answers, streams, history, stop strings, log probabilities."""

from __future__ import annotations

import logging
import time

import pytest

import ollama_compat as ollama

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
SURE = {"temperature": 0, "seed": 7, "num_predict": 24}

pytestmark = pytest.mark.vllm


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


def test_chat_returns_the_answer_of_the_model(ask):
    reply = ask.chat("smol", QUESTION, options=SURE)
    assert isinstance(reply, ollama.ChatResponse)
    assert (reply.message.role, reply.message.content) == ("assistant", ANSWER)
    assert (reply.model, reply.done, reply.done_reason) == ("smol", True, "stop")
    assert (reply.prompt_eval_count, reply.eval_count) == (16, 8)


def test_durations_are_nanoseconds_within_the_elapsed_time(ask):
    began = time.perf_counter_ns()
    reply = ask.chat("smol", QUESTION, options=SURE)
    elapsed = time.perf_counter_ns() - began
    parts = reply.load_duration + reply.prompt_eval_duration + reply.eval_duration
    assert 0 < parts <= reply.total_duration <= elapsed
    # No CPU generates 10,000 tokens a second with this model, so a smaller unit than nanoseconds fails here.
    assert reply.eval_count / reply.eval_duration * 1e9 < 10_000


def test_stream_returns_the_same_answer_in_parts(ask):
    *parts, last = ask.chat("smol", QUESTION, options=SURE, stream=True)
    assert parts
    assert all(part.message.content for part in parts)
    assert "".join(part.message.content for part in parts) == ANSWER
    assert not any(part.done for part in parts)
    assert all(part.created_at and part.model == "smol" for part in parts)
    assert (last.done, last.done_reason, last.message.content, last.eval_count) == (True, "stop", "", 8)


@pytest.mark.parametrize("name", ["smol:latest", "SMOL", "library/smol", "registry.ollama.ai/library/smol:latest"])
def test_chat_accepts_every_ollama_name_of_a_model(ask, name):
    reply = ask.chat(name, QUESTION, options=SURE)
    assert (reply.message.content, reply.model) == (ANSWER, name)


def test_profile_of_a_mapped_name_sets_system_prompt_and_parameters(connect, chat_server, tmp_path):
    config = tmp_path / "compat.toml"
    config.write_text(
        '[models.terse]\nfrom = "exaone"\nsystem = "You are terse."\n'
        "parameters = { temperature = 0, num_predict = 2 }\n"
    )
    ask = connect(vllm_urls=chat_server.url, vllm_model_map={"exaone": "smol"}, ollama_compat_config=str(config))
    reply = ask.chat("terse", QUESTION)
    assert (reply.prompt_eval_count, reply.eval_count, reply.done_reason) == (26, 2, "length")
    assert ask.chat("terse", QUESTION, options={"num_predict": 3}).eval_count == 3
    own_system = [{"role": "system", "content": "Be kind, be long, be clear."}, *QUESTION]
    assert ask.chat("terse", own_system).prompt_eval_count != 26


def test_chat_without_messages_loads_the_model(ask):
    reply = ask.chat("smol", [])
    assert (reply.message.content, reply.done_reason, reply.eval_count) == ("", "load", None)
    assert ask.chat("smol", [], keep_alive=0).done_reason == "unload"


def test_chat_joins_consecutive_messages_of_one_role(ask):
    twice = ask.chat("smol", [*QUESTION, *QUESTION], options=SURE)
    joined = ask.chat(
        "smol", [{"role": "user", "content": f"{QUESTION[0]['content']}\n\n{QUESTION[0]['content']}"}], options=SURE
    )
    assert twice.prompt_eval_count == joined.prompt_eval_count


def test_chat_continues_a_trailing_assistant_message(ask):
    messages = [*QUESTION, {"role": "assistant", "content": "The capital of"}]
    reply = ask.chat("smol", messages, options=SURE)
    assert (reply.message.content, reply.prompt_eval_count, reply.eval_count) == (" France is Paris.", 19, 5)
    parts = ask.chat("smol", messages, options=SURE, stream=True)
    assert "".join(part.message.content for part in parts) == " France is Paris."


@pytest.mark.parametrize("message", [{"role": "wizard", "content": "hi"}, {"role": "user"}])
def test_chat_accepts_an_unknown_role_and_missing_content(ask, message):
    assert ask.chat("smol", [message], options=SURE).done


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stops", [["Paris"], ["a1", "b1", "c1", "d1", "e1", "Paris"]])
def test_chat_applies_any_number_of_stop_strings(ask, stops, stream):
    reply = ask.chat("smol", QUESTION, options={**SURE, "stop": stops}, stream=stream)
    parts = reply if stream else [reply]
    assert "".join(part.message.content for part in parts) == "The capital of France is "
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 6)


def test_empty_stop_string_ends_the_answer_at_once(ask):
    reply = ask.chat("smol", QUESTION, options={**SURE, "stop": [""]})
    assert (reply.message.content, reply.done_reason) == ("", "stop")


def test_chat_returns_log_probabilities(ask):
    tokens = ["The", " capital", " of", " France", " is", " Paris", "."]
    reply = ask.chat("smol", QUESTION, options=SURE, logprobs=True, top_logprobs=2)
    assert [entry.token for entry in reply.logprobs] == tokens
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in reply.logprobs)
    *parts, last = ask.chat("smol", QUESTION, options=SURE, logprobs=True, stream=True)
    assert [entry.token for part in parts for entry in part.logprobs] == tokens
    assert "".join(part.message.content for part in parts) == ANSWER
    assert last.logprobs is None
    assert ask.chat("smol", QUESTION, options=SURE, top_logprobs=2).logprobs is None


def test_chat_returns_korean_and_emoji_unbroken(ask):
    messages = [{"role": "user", "content": "Repeat: 안녕하세요 🙂"}]
    whole = ask.chat("smol", messages, options=SURE).message.content
    assert "안녕하세요 🙂" in whole
    parts = ask.chat("smol", messages, options=SURE, stream=True)
    assert "".join(part.message.content for part in parts) == whole


def conversation(length):
    """A system message, `length` pairs of question and answer, and QUESTION."""
    pairs = [
        message
        for i in range(length)
        for message in (
            {"role": "user", "content": f"Question {i}: tell me about number {i} please."},
            {"role": "assistant", "content": f"Number {i} is a number, and it is followed by {i + 1}."},
        )
    ]
    return [{"role": "system", "content": "You are terse."}, *pairs, *QUESTION]


def test_chat_drops_the_oldest_messages_when_the_window_is_full(ask):
    reply = ask.chat("smol", conversation(120), options=SURE)
    assert reply.message.content
    assert 1024 < reply.prompt_eval_count < 2048


def test_chat_shortens_a_conversation_to_num_ctx(ask):
    messages = conversation(8)
    whole = ask.chat("smol", messages, options=SURE).prompt_eval_count
    cut = ask.chat("smol", messages, options={**SURE, "num_ctx": 128}).prompt_eval_count
    assert cut <= 128 < whole


def test_chat_cuts_a_last_message_that_exceeds_the_window(ask):
    reply = ask.chat("smol", [{"role": "user", "content": "hello world " * 3000}], options={**SURE, "num_predict": 4})
    assert reply.prompt_eval_count == 2048 - (2048 - 4) // 2


def test_chat_rejects_images_for_a_text_model_with_ollamas_error(ask):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
    with pytest.raises(ollama.ResponseError, match="model does not support multimodal requests") as raised:
        ask.chat("smol", [{"role": "user", "content": "What is it?", "images": [pixel]}], options=SURE)
    assert raised.value.status_code == 400


def test_chat_returns_ollamas_404_for_an_unknown_model(ask):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.chat("nope", QUESTION)
    assert (raised.value.error, raised.value.status_code) == ("model 'nope' not found", 404)


def test_chat_returns_ollamas_400_for_an_embedding_model(connect, embed_server):
    with pytest.raises(ollama.ResponseError) as raised:
        connect(vllm_urls=embed_server.url).chat("minilm", QUESTION)
    assert (raised.value.error, raised.value.status_code) == ('"minilm" does not support chat', 400)


def test_unsupported_options_are_logged_once(ask, caplog):
    with caplog.at_level(logging.WARNING, logger="ollama_compat"):
        for _ in range(2):
            ask.chat("smol", QUESTION, options={**SURE, "mirostat": 2, "num_gpu": 1}, keep_alive="5m")
    named = [record.getMessage().split()[1] for record in caplog.records if "option" in record.getMessage()]
    assert sorted(named) == ["'mirostat'", "'num_gpu'"]
    assert sum("keep_alive" in record.getMessage() for record in caplog.records) == 1
