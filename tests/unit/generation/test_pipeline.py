"""The generation pipeline that chat and generate share: from vLLM's events to Ollama's parts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from ollama_compat import ResponseError
from ollama_compat.call import ClientContext
from ollama_compat.generation.pipeline import generate
from ollama_compat.generation.reader import ReplyFormat
from ollama_compat.generation.request import check
from ollama_compat.generation.thinking_plan import ThinkingPlan
from ollama_compat.mapping.errors import unreachable
from ollama_compat.mapping.model_families import ThinkingStyle
from ollama_compat.steps import JsonObject, Steps
from tests.play import (
    SECOND,
    STAMP,
    URL,
    FakeClock,
    Play,
    call,
    chat_stream,
    choice,
    delta,
    event,
    play,
    reply,
    tokens,
    usage,
)

THINKING = ThinkingPlan(parse=True)


@dataclass(frozen=True)
class FakePrompt:
    """A prompt whose fields do not matter."""

    reply: ReplyFormat
    path: str = "/v1/chat/completions"
    droppable: int = 0
    can_be_cut: bool = False

    def fields(self) -> JsonObject:
        return {"p": 1}

    def countable(self) -> JsonObject:
        return {"p": 1}

    def surely_fits(self, limit: int) -> bool:
        return True

    def without_oldest(self, number: int, /) -> FakePrompt:
        return self

    def cut(self, tokens: list[int]) -> FakePrompt:
        return self


def pipeline(body: JsonObject, client: ClientContext | None = None, **reply: Any) -> Steps[None]:
    chat_call = call("/api/chat", body, context=client)
    request = replace(check(chat_call), sampling={})
    return generate(chat_call, request, FakePrompt(ReplyFormat("message", **reply)))


def answer(*script: Any, stream: bool = True, client: ClientContext | None = None, **reply: Any) -> Play:
    """Run the pipeline on one reply. `reply` holds fields of `ReplyFormat`."""
    return play(pipeline({"stream": stream}, client, **reply), *script)


def texts(played: Play, name: str = "content") -> list[Any]:
    return [part["message"].get(name) for part in played.parts]


# The request


def test_request_asks_for_stream_with_usage() -> None:
    assert answer(chat_stream("Hi")).payload == {
        "model": "smol",
        "p": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("fields", "differs"),
    [
        ({"stream": False}, {"stream_interval": 1_000_000}),
        ({"stream": False, "tools": frozenset({"f"})}, {}),
        (
            {"stream": False, "client_stops": ("x",)},
            {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
        ({"client_stops": ("x",)}, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        ({"context": True}, {"return_token_ids": True}),
    ],
)
def test_request_has_fields_that_reply_format_needs(fields: dict[str, Any], differs: dict[str, Any]) -> None:
    base = {"model": "smol", "p": 1, "stream": True, "stream_options": {"include_usage": True}}
    assert answer(chat_stream("Hi"), **fields).payload == base | differs


# The parts


def test_stream_has_part_for_each_piece_and_last_part() -> None:
    played = answer(chat_stream("Hel", "lo"))
    assert played.parts[:2] == [
        {"model": "smol", "created_at": STAMP, "message": {"role": "assistant", "content": "Hel"}, "done": False},
        {"model": "smol", "created_at": STAMP, "message": {"role": "assistant", "content": "lo"}, "done": False},
    ]
    assert played.parts[2]["done"] is True
    assert played.parts[2]["message"]["content"] == ""


def test_answer_is_one_part_without_stream() -> None:
    played = answer(chat_stream("Hel", "lo"), stream=False)
    assert texts(played) == ["Hello"]
    assert played.parts[0]["done"] is True


def test_last_part_has_token_counts_and_durations() -> None:
    last = answer(chat_stream("Hi")).parts[-1]
    assert {key: last[key] for key in ("prompt_eval_count", "eval_count")} == {"prompt_eval_count": 7, "eval_count": 3}
    assert {key: last[key] // SECOND for key in last if key.endswith("duration")} == {
        "load_duration": 1,  # from the call to the request
        "prompt_eval_duration": 1,  # to the first event
        "eval_duration": 1,  # to the end
        "total_duration": 3,
    }


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("repetition", "stop")]
)
def test_done_reason_follows_finish_reason(finish: str, reason: str) -> None:
    assert answer(chat_stream("Hi", finish=finish)).parts[-1]["done_reason"] == reason


def test_empty_answer_has_last_part_only() -> None:
    assert texts(answer(chat_stream())) == [""]


def test_token_counts_are_zero_without_usage() -> None:
    last = answer([delta("stop", content="Hi")]).parts[-1]
    assert (last["prompt_eval_count"], last["eval_count"]) == (0, 0)


def test_context_has_token_ids_of_prompt_and_answer() -> None:
    first = choice(text="a", prompt_token_ids=[1, 2], token_ids=[3])
    last = choice("stop", text="", token_ids=[4])  # the end-of-text token is not part of the answer
    assert answer([first, last], context=True).parts[-1]["context"] == [1, 2, 3]


def test_context_is_absent_by_default() -> None:
    assert "context" not in answer(chat_stream("Hi")).parts[-1]


# Thinking


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_field_becomes_thinking(field: str) -> None:
    played = answer([delta(**{field: "\nHm"}), delta(content="\n\nHi"), delta("stop")])
    assert texts(played, "thinking") == ["Hm", None, None]
    assert texts(played) == ["", "Hi", ""]


def test_text_between_think_tags_becomes_thinking() -> None:
    played = answer(chat_stream("<th", "ink>Hm</think>", "\nHi"), thinking=THINKING)
    assert texts(played, "thinking") == ["Hm", None, None]
    assert texts(played) == ["", "Hi", ""]


def test_think_tags_stay_in_content_when_server_parses_reasoning() -> None:
    stream = [delta(reasoning="Hm"), delta(content="<think>Hi"), delta("stop")]
    assert texts(answer(stream, thinking=THINKING)) == ["", "<think>Hi", ""]


def test_reasoning_becomes_content_when_thinking_is_off() -> None:
    played = answer([delta(reasoning="Paris"), delta("stop")], thinking=ThinkingPlan(reasoning="answer"))
    assert texts(played) == ["Paris", ""]
    assert texts(played, "thinking") == [None, None]


@pytest.mark.parametrize("stream", [True, False])
def test_unknown_reasoning_becomes_content_when_answer_would_be_empty(stream: bool) -> None:
    played = answer(
        [delta(reasoning="Paris"), delta("stop")], thinking=ThinkingPlan(reasoning="unknown"), stream=stream
    )
    assert texts(played)[-2:] == (["Paris", ""] if stream else ["Paris"])


def test_unknown_reasoning_stays_thinking_when_a_stop_string_leaves_no_answer() -> None:
    thinking = ThinkingPlan(reasoning="unknown")
    played = answer([delta(reasoning="Hm"), delta("stop")], thinking=thinking, client_stops=("",), stream=False)
    assert (texts(played), texts(played, "thinking")) == ([""], ["Hm"])


def test_unknown_reasoning_stays_thinking_when_answer_is_cut_off() -> None:
    played = answer([delta(reasoning="Hm"), delta("length")], thinking=ThinkingPlan(reasoning="unknown"), stream=False)
    assert (texts(played), texts(played, "thinking")) == ([""], ["Hm"])


@pytest.mark.parametrize(
    ("template", "content", "thinking"),
    [
        ([tokens(1, 2), tokens(1), tokens(1)], ["Paris", ""], [None, None]),
        ([tokens(1, 2), tokens(1), tokens(1, 2)], ["", ""], ["Paris", None]),
    ],
    ids=["thinking is off by default", "thinking is on by default"],
)
def test_unknown_reasoning_is_resolved_by_the_template_when_it_arrives(
    template: Any, content: Any, thinking: Any
) -> None:
    plan = ThinkingPlan(reasoning="unknown", style=ThinkingStyle(None, "enable_thinking"))
    events = [delta(reasoning="Paris"), delta("stop")]
    played = answer(events, *template, thinking=plan)
    assert (texts(played), texts(played, "thinking")) == (content, thinking)


@pytest.mark.parametrize(("prompt", "opened"), [("Hi <think>\n", True), ("Hi", False)])
def test_prompt_text_determines_whether_thinking_is_open(prompt: str, opened: bool) -> None:
    first = event({"choices": [], "prompt_text": prompt})
    client = ClientContext(FakeClock())
    plan = ThinkingPlan(parse=True, opened=None)
    played = answer([first, *chat_stream("Hm</think>Hi")], thinking=plan, client=client)
    assert played.payload["return_prompt_text"] is True
    assert texts(played)[0] == ("Hi" if opened else "Hm</think>Hi")
    assert client.facts[URL, "smol", "opens thinking by default {}"] is opened


# Tools, log probabilities, stop strings


def test_tool_call_is_one_complete_part() -> None:
    pieces = [{"index": 0, "id": "x", "function": {"name": "weather"}}], [{"index": 0, "function": {"arguments": "{}"}}]
    stream = [*(delta(tool_calls=piece) for piece in pieces), delta("tool_calls")]
    played = answer(stream, tools=frozenset({"weather"}))
    call_ = {"id": "call_x", "function": {"index": 0, "name": "weather", "arguments": {}}}
    assert texts(played, "tool_calls") == [[call_], None]
    assert texts(played) == ["", ""]


def test_dropped_tool_call_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    client = ClientContext(FakeClock())
    stream = [delta(tool_calls=[{"index": 0, "function": {"name": "rm", "arguments": "{}"}}]), delta("tool_calls")]
    with caplog.at_level(logging.WARNING, "ollama_compat"):
        assert texts(answer(stream, client=client)) == texts(answer(stream, client=client)) == [""]
    (record,) = caplog.records
    assert record.getMessage() == "model smol: dropped a call of 'rm', which the request does not offer"


HI = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Yo", "logprob": -1.0}]}


@pytest.mark.parametrize("top", [0, 1])
def test_log_probabilities_are_on_the_part_with_their_text(top: int) -> None:
    alternatives = {"top_logprobs": [{"token": "Yo", "logprob": -1.0, "bytes": [89, 111]}]} if top else {}
    stream = [choice(delta={"content": "Hi"}, logprobs={"content": [HI]}), delta("stop")]
    assert answer(stream, top_logprobs=top).parts[0]["logprobs"] == [
        {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], **alternatives}
    ]


def test_log_probabilities_omit_end_of_text_token() -> None:
    end = {"token": "<|im_end|>", "logprob": 0.0}
    stream = [choice("stop", delta={"content": "Hi"}, logprobs={"content": [HI, end]})]
    assert [entry["token"] for entry in answer(stream).parts[0]["logprobs"]] == ["Hi"]


def test_log_probabilities_of_completions_are_converted() -> None:
    lists = {"tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{"Yo": -1.0, "Hi": -0.5}]}
    assert answer([choice("length", text="Hi", logprobs=lists)], top_logprobs=2).parts[0]["logprobs"] == [
        {
            "token": "Hi",
            "logprob": -0.5,
            "bytes": [72, 105],
            "top_logprobs": [
                {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                {"token": "Yo", "logprob": -1.0, "bytes": [89, 111]},
            ],
        }
    ]


def test_client_side_stop_string_ends_answer_with_current_counts() -> None:
    counted = event({"choices": [{"delta": {"content": "two"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
    played = answer([delta(content="one "), counted, delta(content="never read")], client_stops=("two",))
    assert texts(played) == ["one ", ""]
    assert (played.parts[-1]["done_reason"], played.parts[-1]["eval_count"]) == ("stop", 2)


def test_held_back_text_arrives_at_the_end() -> None:
    assert texts(answer(chat_stream("on", "e tw"), client_stops=("two",))) == ["on", "e ", "tw", ""]


def test_client_side_stop_string_does_not_cut_thinking() -> None:
    played = answer([delta(reasoning="one two"), delta(content="two"), delta("stop")], client_stops=("two",))
    assert texts(played, "thinking") == ["one two", None]


# Errors


def test_error_reply_is_raised() -> None:
    with pytest.raises(ResponseError) as caught:
        answer(reply({"error": {"message": "no"}}, 400))
    assert (caught.value.error, caught.value.status_code) == (f"no (status 400 from {URL})", 400)


@pytest.mark.parametrize(
    ("events", "text", "status"),
    [
        ([delta(content="Hi")], "an error was encountered while running the model: unexpected EOF", -1),
        ([delta(content="Hi"), usage(), b"[DONE]"], "an error was encountered while running the model", -1),
        ([delta(content="Hi"), event({"error": {"message": "boom", "code": 503}})], "boom", 503),
        ([delta(content="Hi"), delta("abort")], f"{URL} stopped generating before the answer was complete", 500),
        ([delta(content="Hi"), delta("error")], f"{URL} stopped generating before the answer was complete", 500),
        ([delta(content="Hi"), b"{"], f"{URL} sent a malformed reply", -1),
    ],
)
def test_stream_error_is_raised_after_received_parts(events: Any, text: str, status: int) -> None:
    played = Play()
    with pytest.raises(ResponseError) as caught:
        played.run(pipeline({"stream": True}), events)
    assert caught.value.error.startswith(text)
    assert caught.value.status_code == status
    assert texts(played) == ["Hi"]


@pytest.mark.parametrize("problem", [unreachable(URL, "smol", "refused"), httpx.ReadTimeout("late")])
def test_transport_error_is_raised_unchanged(problem: Exception) -> None:
    with pytest.raises(type(problem)):
        answer(problem)


def test_null_error_field_is_ignored() -> None:
    assert texts(answer([event({"error": None, "choices": [{"delta": {"content": "Hi"}}]}), delta("stop")])) == [
        "Hi",
        "",
    ]


# Tool calls in the text

CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}'
IN_TEXT: dict[str, Any] = {"text_tools": ("get_weather",), "tool_tag": "<tool_call>"}


def test_tool_call_in_the_text_is_a_part_without_content() -> None:
    played = answer(chat_stream("Hm. <tool", CALL[5:], "</tool_call>"), **IN_TEXT)
    assert texts(played) == ["Hm. ", "", ""]
    assert [bool(calls) for calls in texts(played, "tool_calls")] == [False, True, False]
    assert texts(played, "tool_calls")[1][0]["function"]["name"] == "get_weather"


def test_held_back_text_is_in_the_last_part_if_it_is_no_call() -> None:
    assert texts(answer(chat_stream("so <"), **IN_TEXT)) == ["so ", "<"]


def test_log_probabilities_are_sent_while_text_is_held_back() -> None:
    stream = [choice(delta={"content": "<"}, logprobs={"content": [HI]}), delta("stop")]
    first = answer(stream, **IN_TEXT).parts[0]
    assert (first["message"]["content"], len(first["logprobs"])) == ("", 1)
