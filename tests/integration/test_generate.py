"""`generate` on a real vLLM server: through the chat template, raw, with a context, with a suffix."""

from __future__ import annotations

import json

import pytest

import ollama_compat as ollama

from .test_chat import ANSWER, SURE

pytestmark = pytest.mark.vllm

PROMPT = "What is the capital of France?"
CONTEXT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]  # the prompt, in its template
ANSWER_IDS = [504, 3575, 282, 4649, 314, 7042, 30]


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


def test_generate_applies_the_chat_template(ask):
    reply = ask.generate("smol", PROMPT, options=SURE)
    assert isinstance(reply, ollama.GenerateResponse)
    assert (reply.response, reply.done_reason, reply.prompt_eval_count, reply.eval_count) == (ANSWER, "stop", 16, 8)


def test_context_contains_the_token_ids_of_prompt_and_answer(ask):
    assert ask.generate("smol", PROMPT, options=SURE).context == CONTEXT + ANSWER_IDS
    *parts, last = ask.generate("smol", PROMPT, options=SURE, stream=True)
    assert last.context == CONTEXT + ANSWER_IDS
    assert all(part.context is None for part in parts)


def test_generate_continues_from_a_context(ask):
    reply = ask.generate("smol", "And of Spain?", context=CONTEXT + ANSWER_IDS, options=SURE)
    assert reply.response == "The capital of Spain is Madrid."
    assert reply.context[: len(CONTEXT)] == CONTEXT
    assert (
        len(reply.context) == reply.prompt_eval_count + reply.eval_count - 1
    )  # the end-of-text token is counted, but not part of the context


def test_generate_includes_the_system_prompt(ask):
    reply = ask.generate("smol", PROMPT, system="Answer with one word.", options=SURE)
    assert reply.prompt_eval_count == 26


@pytest.mark.parametrize("stream", [False, True])
def test_raw_prompt_is_completed_unchanged(ask, stream):
    reply = ask.generate("smol", "The capital of France is", raw=True, options=SURE, stream=stream)
    parts = reply if stream else [reply]
    assert "".join(part.response for part in parts).startswith(" Paris.")
    last = parts[-1]
    assert (last.done_reason, last.prompt_eval_count, last.eval_count, last.context) == ("length", 5, 24, None)


def test_raw_prompt_without_num_predict_exceeds_vllms_default_of_16_tokens(ask):
    options = {"temperature": 0, "stop": ["million people"]}
    reply = ask.generate("smol", "The capital of France is", raw=True, options=options)
    assert reply.eval_count > 16


def test_raw_prompt_supports_json_and_log_probabilities(ask):
    reply = ask.generate("smol", "JSON:", raw=True, format="json", options=SURE)
    assert reply.response.startswith("{")
    reply = ask.generate("smol", "The capital of France is", raw=True, logprobs=True, top_logprobs=2, options=SURE)
    assert [entry.token for entry in reply.logprobs][:2] == [" Paris", "."]
    assert all(len(entry.top_logprobs) == 2 for entry in reply.logprobs)
    reply = ask.generate("smol", "The capital of France is", raw=True, logprobs=True, options=SURE)
    assert len(reply.logprobs) == 24
    assert reply.logprobs[0].top_logprobs is None


def test_generate_follows_a_json_schema(ask):
    schema = {"type": "object", "properties": {"n": {"enum": ["one", "two"]}}, "required": ["n"]}
    reply = ask.generate("smol", "A number, as JSON", format=schema, options={"temperature": 0, "num_predict": 60})
    assert json.loads(reply.response)["n"] in ("one", "two")


def test_generate_without_a_prompt_loads_the_model(ask):
    reply = ask.generate("smol")
    assert (reply.response, reply.done, reply.done_reason, reply.context) == ("", True, "load", None)
    assert [part.done_reason for part in ask.generate("smol", stream=True)] == ["load"]
    assert ask.generate("smol", keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(
    ("field", "status", "text"),
    [
        ({"raw": True, "system": "x"}, 400, "raw mode does not support template, system, or context"),
        ({"raw": True, "context": [1]}, 400, "raw mode does not support template, system, or context"),
        ({"suffix": "return x"}, 400, "registry.ollama.ai/library/smol:latest does not support insert"),
        (
            {"think": "maybe"},
            400,
            'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)',
        ),
    ],
    ids=str,
)
def test_generate_rejects_requests_with_ollamas_errors(ask, field, status, text):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.generate("smol", PROMPT, **field)
    assert (raised.value.status_code, raised.value.error) == (status, text)


def test_generate_returns_400_for_an_embedding_model(connect, embed_server):
    with pytest.raises(ollama.ResponseError) as raised:
        connect(vllm_urls=embed_server.url).generate("minilm", PROMPT)
    assert (raised.value.error, raised.value.status_code) == ('"minilm" does not support generate', 400)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("num_ctx", "kept"), [(None, 1026), (256, 130), (99999, 1026)])
def test_generate_cuts_a_long_prompt_as_ollama_does(ask, raw, num_ctx, kept):
    options = {"temperature": 0, "num_predict": 4, "num_ctx": num_ctx}
    reply = ask.generate("smol", "hello world " * 3000, raw=raw, options=options)
    assert (reply.prompt_eval_count, reply.eval_count) == (kept, 4)


def test_profile_enables_fill_in_the_middle(connect, chat_server, tmp_path):
    config = tmp_path / "compat.toml"
    config.write_text("[models.coder]\nfrom = 'smol'\nfim = '<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>'\n")
    ask = connect(vllm_urls=chat_server.url, ollama_compat_config=str(config))
    reply = ask.generate("coder", "def add(a, b):\n", suffix="\n    return c", options=SURE)
    assert (reply.prompt_eval_count, reply.eval_count) == (29, 24)
    assert ask.show("coder").capabilities == ["completion", "tools", "insert", "thinking"]
