"""Normalisation of replies: each shape that a provider sends becomes a reply of Ollama."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.operations.chat import chat
from ollama_compat.operations.embed import embed
from ollama_compat.providers.adapter import ProviderAdapter
from ollama_compat.providers.response import FINISHES, SHAPES, STATUSES, StreamNormalizer, error_status, normalized
from ollama_compat.settings import Provider
from ollama_compat.steps import JsonObject, Reply, intercept
from ollama_compat.transport.sse import EventDecoder
from tests.play import Play, call, chat_stream, choice, completion_stream, delta, event, play, reply, usage

PROVIDER = Provider(base_url="https://llm.example/v1", api_key_env="LLM_KEY")
HI: JsonObject = {"messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("look", "read")
]
DONE = b"[DONE]"


def answered(*events: Any, warnings: list[str] | None = None, **body: Any) -> Play:
    """A chat whose stream has these events; `warnings` collects the texts for the log."""

    def notice(event: str, subject: str, text: str, **facts: object) -> None:
        if warnings is not None:
            warnings.append(text % facts)

    return play(
        intercept(chat(call("/api/chat", {**HI, **body})), ProviderAdapter(PROVIDER, "cloud", notice)), list(events)
    )


def message(*events: Any, **body: Any) -> JsonObject:
    """The message of the reply."""
    found: JsonObject = answered(*events, **body).parts[-1]["message"]
    return found


def calls(*events: Any) -> list[tuple[str, Any]]:
    """The tool calls of the reply."""
    found = message(*events, tools=TOOLS).get("tool_calls", [])
    return [(each["function"]["name"], each["function"]["arguments"]) for each in found]


# Thinking


def test_content_parts_become_text_and_thinking() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}], "closed": True}
    both = [{"type": "thinking", "thinking": "So."}, {"type": "text", "text": "Hel"}, {"type": "reference"}]
    answer = message(
        delta(content=[thinking]), delta(content=both), delta(content="lo"), delta("stop", content=""), DONE
    )
    assert answer == {"role": "assistant", "content": "Hello", "thinking": "Hm. So."}


def silent() -> ProviderAdapter:
    """An adapter whose notices go nowhere."""
    return ProviderAdapter(PROVIDER, "cloud", lambda *_, **__: None)


@pytest.mark.parametrize("detail", [{"type": "reasoning.text", "text": "Hm."}, {"type": "x", "summary": "Hm."}])
def test_reasoning_details_become_thinking_when_there_is_no_reasoning(detail: JsonObject) -> None:
    alone = delta(content="", reasoning_details=[detail, {"type": "reasoning.encrypted", "data": "aGk="}])
    assert message(alone, *chat_stream("Hello")) == {"role": "assistant", "content": "Hello", "thinking": "Hm."}
    beside = delta(content="", reasoning="Hm.", reasoning_details=[detail])
    assert message(beside, *chat_stream("Hello"))["thinking"] == "Hm."


# Tool calls


def piece(name: str | None = None, arguments: Any = None, **fields: Any) -> JsonObject:
    return {**fields, "function": {"name": name, "arguments": arguments}}


FOUND = [("look", {"a": 1}), ("look", {"a": 2}), ("read", {})]


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}], ids=["no index", "null", "all of them 0"])
@pytest.mark.parametrize("together", [True, False])
def test_parallel_calls_are_distinguished_by_their_ids(index: JsonObject, together: bool) -> None:
    pieces = [
        piece("look", '{"a": 1}', id="c1", type="function", **index),
        piece("look", '{"a": 2}', id="c2", type="function", **index),
        piece("read", "{}", id="c3", type="function", **index),
    ]
    events = [delta(tool_calls=pieces)] if together else [delta(tool_calls=[each]) for each in pieces]
    assert calls(*events, delta("stop"), DONE) == FOUND


def test_calls_without_index_and_id_are_distinguished_by_their_names() -> None:
    pieces = [piece("look", '{"a":'), piece(None, "1}"), piece("look", '{"a": 2}'), piece("read", "")]
    assert calls(*(delta(tool_calls=[each]) for each in pieces), delta("tool_calls"), DONE) == FOUND


def test_call_deltas_are_joined_when_they_repeat_id_and_name() -> None:
    pieces = [
        piece("look", "", index=0, id="c1"),
        piece("look", '{"a":', index=0, id="c1"),
        piece("look", "1}", index=0),
        piece("look", '{"a": 2}', index=1, id="c2"),
        piece("read", None, index=2, id="c3"),
    ]
    assert calls(*(delta(tool_calls=[each]) for each in pieces), delta("tool_calls"), DONE) == FOUND


@pytest.mark.parametrize(
    ("arguments", "found"),
    [({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("", {}), (None, {}), ({}, {}), (' "{\\"a\\": 1}"', {"a": 1})],
)
def test_arguments_may_be_an_object_or_missing(arguments: Any, found: JsonObject) -> None:
    assert calls(delta(tool_calls=[piece("look", arguments, index=0)]), delta("tool_calls"), DONE) == [("look", found)]


# The end


@pytest.mark.parametrize("row", FINISHES, ids=lambda row: row.prefix)
@pytest.mark.parametrize("write", [str.lower, str.upper, lambda text: f"{text}: WHY"], ids=["lower", "upper", "why"])
def test_finish_reason_becomes_one_of_vllm(row: Any, write: Any) -> None:
    warnings: list[str] = []
    if row.means == "error":
        with pytest.raises(ResponseError, match="stopped generating"):
            answered(*chat_stream("Hel", finish=write(row.prefix)), warnings=warnings)
        return
    played = answered(*chat_stream("Hel", "lo", finish=write(row.prefix)), warnings=warnings)
    assert played.parts[-1]["message"]["content"] == "Hello"
    assert played.parts[-1]["done_reason"] == ("length" if row.means == "length" else "stop")
    assert [line for line in warnings if "sent" in line] == (
        [f"provider cloud sent {row.warning}"] if row.warning else []
    )


def test_unknown_finish_reason_becomes_stop_with_a_warning() -> None:
    warnings: list[str] = []
    assert answered(*chat_stream("Hi", finish="tired"), warnings=warnings).parts[-1]["done_reason"] == "stop"
    assert "provider cloud sent the unknown finish_reason 'tired' (it is handled as 'stop')" in warnings


def test_warning_quotes_finish_reason_shortened_and_printable() -> None:
    stream = StreamNormalizer()
    stream.event(delta("\x1b[2J" + "x" * 1000))
    (warning,) = stream.warnings
    assert len(warning) < 200
    assert warning.isprintable()


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_finish_reasons_of_vllm_cause_no_warning(reason: str) -> None:
    warnings: list[str] = []
    answered(*chat_stream("Hi", finish=reason), warnings=warnings)
    assert not [line for line in warnings if "sent" in line]


LOGPROBS = {"content": [{"token": "Hel", "logprob": -1.0}, {"token": "lo", "logprob": -2.0, "bytes": None}]}


def tokens(played: Play) -> list[str]:
    return [each["token"] for part in played.parts for each in part.get("logprobs") or ()]


def test_logprobs_of_the_last_event_are_all_returned() -> None:
    last = choice("stop", delta={"content": "Hello"}, logprobs=LOGPROBS)
    assert tokens(answered(last, DONE, logprobs=True)) == ["Hel", "lo"]
    empty = choice("stop", delta={}, logprobs={"content": None, "refusal": None})
    assert tokens(answered(choice(delta={"content": "Hello"}, logprobs=LOGPROBS), empty, logprobs=True)) == [
        "Hel",
        "lo",
    ]


def test_logprob_of_an_end_of_text_token_is_not_returned() -> None:
    content = [*LOGPROBS["content"], {"token": "<|end|>", "logprob": -0.1}]
    last = choice("stop", delta={"content": "Hello"}, logprobs={"content": content})
    assert tokens(answered(last, DONE, logprobs=True)) == ["Hel", "lo"]


def test_logprobs_that_are_a_number_are_dropped() -> None:
    events = [choice(delta={"content": "Hello"}, logprobs=-0.5), choice("stop", delta={}, logprobs=0)]
    played = answered(*events)
    assert (played.parts[-1]["message"]["content"], tokens(played)) == ("Hello", [])


# Counts and keep-alives

COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "queue_time": 0.06}


@pytest.mark.parametrize(
    "last",
    [
        event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": COUNTS}),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"id": "req_1", "usage": COUNTS}}),
        event({"choices": [{"delta": {}, "finish_reason": "stop", "usage": COUNTS}]}),
    ],
    ids=["with the end", "Groq", "Moonshot"],
)
def test_usage_is_read_from_every_known_place(last: bytes) -> None:
    played = answered(delta(content="Hello"), last, DONE)
    assert (played.parts[-1]["prompt_eval_count"], played.parts[-1]["eval_count"]) == (7, 3)


@pytest.mark.parametrize(
    "idle",
    [
        event({"choices": []}),
        event({"choices": None}),
        event({"id": "x", "object": "chat.completion.chunk", "x_groq": {"id": "req_1"}, "choices": []}),
        event({"choices": [{"index": 0, "delta": None, "finish_reason": None}]}),
        event({"choices": [{"delta": {"role": "assistant", "content": None, "tool_calls": None}}], "usage": None}),
        event({"choices": [{"delta": {"content": "", "reasoning_details": None}}], "error": None}),
        event({}),
        event({"type": "ping"}),
    ],
)
def test_events_without_content_change_nothing(idle: bytes) -> None:
    assert message(idle, delta(content="Hel"), idle, delta("stop", content="lo"), idle, DONE)["content"] == "Hello"


def test_sse_comments_and_event_names_are_skipped() -> None:
    stream = b': OPENROUTER PROCESSING\n\nevent: error\ndata: {"error": "x"}\n\n: keep-alive\n\n'
    assert EventDecoder("https://llm.example").feed(stream) == [b'{"error": "x"}']


# Errors in a stream


@pytest.mark.parametrize(
    ("document", "status", "text"),
    [
        (
            {
                "choices": [{"delta": {"content": ""}, "finish_reason": "error"}],
                "error": {"code": 502, "message": "gone"},
            },
            502,
            "gone",
        ),
        ({"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}, 429, "slow down"),
        (
            {"error": {"message": "bad call", "type": "invalid_request_error", "code": "tool_use_failed"}},
            500,
            "bad call",
        ),
        ({"error": {"message": "busy", "code": "503"}}, 503, "busy"),
        ({"error": {"message": "too much", "status_code": 429, "type": "x"}}, 429, "too much"),
        ({"x_groq": {"id": "req_1", "error": "over capacity"}, "choices": []}, 500, "over capacity"),
        ([{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}], 503, "overloaded"),
        ({"error": {"message": "why", "status": "RESOURCE_EXHAUSTED"}}, 429, "why"),
        ({"error": "broken"}, 500, "broken"),
        ({"detail": "broken"}, 500, "broken"),
        ({"object": "error", "message": {"detail": [{"msg": "broken", "input": "Hi"}]}, "type": "x"}, 500, "broken"),
        ({"message": "wait", "type": "too_many_requests_error", "code": "queue_exceeded"}, 429, "wait"),
        ({"error": {"message": "full", "type": "overloaded_error"}}, 503, "full"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_error_event_has_the_providers_message_and_status(document: Any, status: int, text: str, begun: bool) -> None:
    with pytest.raises(ResponseError) as caught:
        answered(*([delta(content="Hel")] if begun else []), event(document))
    assert caught.value.status_code == status
    assert caught.value.error.startswith(f"{text} (status {status}")


@pytest.mark.parametrize("code", [401, "invalid_api_key", 402, "permission_denied"])
def test_rejected_key_in_a_stream_names_the_variable(code: Any) -> None:
    with pytest.raises(ResponseError) as caught:
        answered(event({"error": {"message": "no", "code": code}}))
    assert caught.value.error == "no (provider cloud, https://llm.example/v1: check the key in LLM_KEY)"


@pytest.mark.parametrize(("word", "status"), STATUSES)
def test_status_follows_a_word_when_there_is_no_number(word: str, status: int) -> None:
    assert error_status({"message": "x", "type": f"{word}_error".upper()}) == status
    assert error_status({"message": "x", "type": word, "code": 418}) == 418


@pytest.mark.parametrize("error", [{}, "text", ["x"], {"code": 200}, {"code": True}, {"code": "²"}, {"code": 10**9}])
def test_error_without_a_status_has_status_500(error: object) -> None:
    assert error_status(error) == 500


# Error replies


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"error": "broken"}, "broken"),
        ([{"error": {"code": 400, "message": "broken", "status": "INVALID_ARGUMENT"}}], "broken"),
        ({"detail": [{"loc": ["body"], "msg": "broken", "input": "Hi"}, {"msg": "twice"}]}, "broken; twice"),
        ({"message": "broken", "request_id": "1"}, "broken"),
        ({"object": "error", "message": {"detail": [{"msg": "broken", "input": "Hi"}]}, "type": "x"}, "broken"),
        ({"error": {"message": "broken", "code": None}, "user_id": None}, "broken"),
        ({"code": "x", "error": {"detail": "broken"}}, "broken"),
    ],
)
def test_error_reply_has_the_providers_message(document: Any, text: str) -> None:
    with pytest.raises(ResponseError) as caught:
        play(
            intercept(chat(call("/api/chat", HI)), silent()),
            reply(document, 422),
        )
    assert caught.value.error == f"{text} (status 422 from http://vllm:8001)"


def test_missing_model_error_names_the_settings_to_check() -> None:
    document = {"error": {"message": "The model `smol` does not exist", "code": "model_not_found"}}
    with pytest.raises(ResponseError) as caught:
        play(
            intercept(chat(call("/api/chat", HI)), silent()),
            reply(document, 404),
        )
    assert caught.value.status_code == 404
    assert caught.value.error == (
        "The model `smol` does not exist (provider cloud, https://llm.example/v1: check the model's name, and models "
        "and base_url in [providers.cloud])"
    )


def test_error_with_status_200_is_raised() -> None:
    document = {"error": {"message": "Provider returned error", "code": 502}}
    texts = call("/api/embed", {"input": "a"})
    with pytest.raises(ResponseError) as caught:
        play(intercept(embed(texts), silent()), reply(document))
    assert caught.value.status_code == 502
    assert "Provider returned error" in caught.value.error


def test_error_reply_keeps_retry_after() -> None:
    assert normalized(Reply(429, b'{"message": "later"}', 2.5)).retry_after == 2.5


@pytest.mark.parametrize("body", [b"", b"<html>", b'"text"', b"[]", b'{"detail": "Not Found"}'])
def test_unknown_error_body_is_unchanged(body: bytes) -> None:
    assert normalized(Reply(404, body)).body == body


@pytest.mark.parametrize("document", [{"data": [{"embedding": [0.0]}], "usage": None}, {"error": None, "data": []}])
def test_success_reply_is_unchanged(document: JsonObject) -> None:
    assert normalized(reply(document)) == reply(document)


# Any reply

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "stop", "length", "text"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "content", "tool_calls", "function", "arguments", "name", "id", "index"),
                    *("error", "finish_reason", "logprobs", "usage", "x_groq", "reasoning_details", "thinking", "text"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3))
def test_no_json_breaks_the_normalisation(documents: list[Any]) -> None:
    stream = StreamNormalizer()
    for document in documents:
        json.loads(stream.event(event(document)))
        assert normalized(reply(document)).status >= 200


@pytest.mark.parametrize("data", [b"", DONE, b"{", b"\xff", b"[" * 9999])
def test_invalid_json_is_unchanged(data: bytes) -> None:
    assert StreamNormalizer().event(data) == data


@pytest.mark.parametrize(
    "events",
    [chat_stream("Hel", "lo"), completion_stream("Hel", "lo"), [delta(reasoning="Hm"), delta("stop"), usage()]],
    ids=["chat", "raw", "thinking"],
)
def test_events_of_vllm_only_lose_their_nulls(events: list[Any]) -> None:
    def without_nulls(document: Any) -> Any:
        if isinstance(document, dict):
            return {key: without_nulls(value) for key, value in document.items() if value is not None}
        return [without_nulls(each) for each in document] if isinstance(document, list) else document

    stream = StreamNormalizer()
    for each in events:
        if each != DONE:
            assert json.loads(stream.event(each)) == without_nulls(json.loads(each))
    assert stream.warnings == []


def test_every_row_has_a_source() -> None:
    assert all(row.source for row in (*SHAPES, *FINISHES))
