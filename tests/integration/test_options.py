"""Options and formats that Ollama accepts and that vLLM would reject without translation."""

from __future__ import annotations

import json

import pytest

import ollama_compat as ollama

from .test_chat import ANSWER, QUESTION, SURE

pytestmark = pytest.mark.vllm

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def ask(connect, chat_server):
    return connect(vllm_urls=chat_server.url)


@pytest.mark.parametrize(
    "option",
    [
        {"top_p": 0},
        {"temperature": -1},
        {"top_k": 0},
        {"top_k": -5},
        {"min_p": 0.1},
        {"seed": -1},
        {"num_predict": 0},
        {"num_predict": -1},
        {"num_predict": -2},
        {"num_predict": 99999},
        {"stop": []},
        {"nonsense": 1},
        {"temperature": None, "top_k": 1},
    ],
    ids=str,
)
def test_chat_accepts_option_values_that_ollama_accepts(ask, option):
    assert ask.chat("smol", QUESTION, options={"temperature": 0, **option}).message.content == ANSWER


@pytest.mark.parametrize(
    "option", [{"temperature": 9.0}, {"presence_penalty": 5}, {"frequency_penalty": -5}, {"min_p": 2}], ids=str
)
def test_option_values_are_clamped_to_the_range_of_vllm(ask, option):
    assert ask.chat("smol", QUESTION, options={"num_predict": 3, **option}).eval_count <= 3


def test_chat_accepts_ollamas_options_type(ask):
    options = ollama.Options(temperature=0, num_predict=2, stop=["zzz"])
    assert ask.chat("smol", QUESTION, options=options).eval_count == 2


def test_repeat_penalty_changes_the_answer(ask):
    assert ask.chat("smol", QUESTION, options={**SURE, "repeat_penalty": 1.3}).message.content != ANSWER


@pytest.mark.parametrize(
    ("option", "status", "text"),
    [
        ({"temperature": "hot"}, 500, 'option "temperature" must be of type float32'),
        ({"stop": "Paris"}, 500, 'option "stop" must be of type array'),
        ({"stop": [1]}, 500, 'option "stop" must be of an array of strings'),
        ({"num_predict": True}, 500, 'option "num_predict" must be of type integer'),
    ],
    ids=str,
)
def test_option_of_a_wrong_type_is_rejected_with_ollamas_error(ask, option, status, text):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.chat("smol", QUESTION, options=option)
    assert (raised.value.status_code, raised.value.error) == (status, text)


def test_seed_makes_an_answer_repeatable_and_minus_one_does_not(ask):
    def story(seed: int) -> str:
        messages = [{"role": "user", "content": "Write a story about a dragon."}]
        return ask.chat("smol", messages, options={"temperature": 1.5, "seed": seed, "num_predict": 12}).message.content

    assert story(11) == story(11)
    assert len({story(-1) for _ in range(3)}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_format_json_returns_an_object(ask, stream):
    reply = ask.chat("smol", QUESTION, format="json", options={"temperature": 0, "num_predict": 80}, stream=stream)
    parts = reply if stream else [reply]
    assert isinstance(json.loads("".join(part.message.content for part in parts)), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_format_schema_is_followed(ask, stream):
    reply = ask.chat("smol", QUESTION, format=SCHEMA, options={"temperature": 0, "num_predict": 80}, stream=stream)
    parts = reply if stream else [reply]
    document = json.loads("".join(part.message.content for part in parts))
    assert set(document) == {"name", "age"}
    assert isinstance(document["age"], int)


def test_format_schema_supports_definitions(ask):
    schema = {"$defs": {"City": {"type": "string", "enum": ["Paris"]}}, "type": "object", "required": ["city"]}
    schema |= {"properties": {"city": {"$ref": "#/$defs/City"}}, "additionalProperties": False}
    reply = ask.chat("smol", QUESTION, format=schema, options={"temperature": 0, "num_predict": 40})
    assert json.loads(reply.message.content) == {"city": "Paris"}


@pytest.mark.parametrize("value", ["", None, {}])
def test_empty_format_is_ignored(ask, value):
    assert ask.chat("smol", QUESTION, format=value, options=SURE).message.content


@pytest.mark.parametrize("stream", [False, True])
def test_invalid_schema_is_rejected_by_the_server(ask, stream):
    with pytest.raises(ollama.ResponseError, match="Invalid type: nonsense") as raised:
        ask.chat("smol", QUESTION, format={"type": "nonsense"}, options=SURE, stream=stream)
    assert raised.value.status_code == 400


@pytest.mark.parametrize("number", [-1, 21])
def test_top_logprobs_out_of_range_is_rejected(ask, number):
    with pytest.raises(ollama.ResponseError, match="top_logprobs must be between 0 and 20"):
        ask.chat("smol", QUESTION, logprobs=True, top_logprobs=number)


def test_keep_alive_that_is_no_duration_is_rejected(ask):
    with pytest.raises(ollama.ResponseError) as raised:
        ask.chat("smol", QUESTION, keep_alive="soon")
    assert (raised.value.status_code, raised.value.error) == (400, 'time: invalid duration "soon"')
