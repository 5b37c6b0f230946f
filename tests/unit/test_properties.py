"""Properties that hold for any input: any split of a stream, any stop strings, any history, any reply."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import ResponseError
from ollama_compat.mapping.messages import joined, to_openai
from ollama_compat.operations.chat import chat
from ollama_compat.operations.embed import embed
from ollama_compat.operations.generate import generate
from ollama_compat.steps import Reply
from ollama_compat.transport.sse import EventDecoder
from tests.play import call, chat_stream, play

USER = {"role": "user", "content": "hi"}
RECORDED = (
    b"".join(b"data: " + event + b"\n\n" for event in chat_stream("Grüß", " dich\u2028", " 🙂", "!"))
    + b"data: [DONE]\n\n"
)

texts = st.text(max_size=12)
calls = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.sampled_from("fg"), "arguments": st.dictionaries(texts, texts)})}
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "wizard"])},
        optional={
            "content": texts,
            "thinking": texts,
            "tool_calls": st.lists(calls, max_size=2),
            "tool_name": st.sampled_from("fg"),
            "images": st.just(["aGk="]),
        },
    ),
    min_size=1,
    max_size=8,
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "usage", "error", "message", "data", "embedding", "index", "tool_calls"]
            )
            | texts,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["message"]["content"] for part in parts)


def outcome_of(steps: Any, script: Any) -> str:
    """Runs the steps and names the result; errors other than `ResponseError` are raised."""
    try:
        parts = play(steps, script).parts
    except ResponseError as error:
        return "a clear error" if error.error else "an error without text"
    return "an answer" if parts and parts[-1].get("done", True) else "half an answer"


@given(st.lists(st.integers(0, len(RECORDED)), max_size=8))
def test_stream_gives_the_same_parts_however_it_is_split(places: list[int]) -> None:
    edges = [0, *sorted(places), len(RECORDED)]
    decoder = EventDecoder("http://vllm")
    events = [event for a, b in itertools.pairwise(edges) for event in decoder.feed(RECORDED[a:b])]
    played = play(chat(call("/api/chat", {"messages": [USER], "stream": True})), [*events, *decoder.finish()])
    assert [part["message"]["content"] for part in played.parts] == ["Grüß", " dich\u2028", " 🙂", "!", ""]


@given(st.lists(st.text("ab ", min_size=1, max_size=4), min_size=5, max_size=7), st.lists(st.text("ab ", max_size=4)))
def test_stop_strings_cut_the_same_text_streamed_or_not(stops: list[str], pieces: list[str]) -> None:
    request = {"messages": [USER], "options": {"stop": stops}}
    streamed = play(chat(call("/api/chat", {**request, "stream": True})), chat_stream(*pieces))
    whole = play(chat(call("/api/chat", request)), chat_stream("".join(pieces)))
    assert text_of(streamed.parts) == text_of(whole.parts)


@given(messages)
def test_any_history_becomes_valid_openai_messages(history: list[dict[str, Any]]) -> None:
    translated = to_openai(joined(history))
    made = [call for message in translated for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in translated if "tool_call_id" in message]
    assert all(isinstance(message["content"], (str, list)) for message in translated)
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in made)
    assert len({call["id"] for call in made}) == len(made)
    assert set(answered) <= {call["id"] for call in made}
    assert len(set(answered)) == len(answered)


@given(st.lists(documents, max_size=4), st.booleans())
def test_any_stream_gives_an_answer_or_a_response_error(events: list[Any], stream: bool) -> None:
    script = [json.dumps(event).encode() for event in events]
    request = {"messages": [USER], "prompt": "hi", "raw": True, "stream": stream}
    for steps in (chat(call("/api/chat", request)), generate(call("/api/generate", request))):
        assert outcome_of(steps, script) in ("an answer", "a clear error")


@given(
    st.binary(max_size=60) | documents.map(lambda value: json.dumps(value).encode()), st.sampled_from([200, 400, 500])
)
def test_any_reply_gives_an_answer_or_a_response_error(body: bytes, status: int) -> None:
    outcome = outcome_of(embed(call("/api/embed", {"input": "hi"})), Reply(status, body))
    assert outcome in (("an answer", "a clear error") if status == 200 else ("a clear error",))
