"""Translation of messages."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat import Profile
from ollama_compat.mapping.messages import begun, continues, joined, to_openai

ROLES = ("system", "user", "assistant", "tool")


def message(role: str, content: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields} if content is not None else {"role": role, **fields}


def tool_call(name: str = "weather", arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **fields}


# Joining


def test_joined_joins_consecutive_messages_of_one_role_with_a_blank_line() -> None:
    assert joined([message("user", "a"), message("user", "b"), message("assistant", "c")]) == [
        message("user", "a\n\nb"),
        message("assistant", "c"),
    ]


def test_joined_keeps_tool_results_separate() -> None:
    results = [message("tool", "1"), message("tool", "2")]
    assert joined(results) == results


def test_joined_keeps_all_images_and_tool_calls() -> None:
    first = message("assistant", "a", images=["x"], tool_calls=[tool_call("one")])
    second = message("assistant", images=["y"], tool_calls=[tool_call("two")])
    assert joined([first, second]) == [
        message("assistant", "a\n\n", images=["x", "y"], tool_calls=[tool_call("one"), tool_call("two")])
    ]


def test_joined_does_not_change_the_callers_messages() -> None:
    given_ = [message("user", "a", images=["x"]), message("user", "b", images=["y"])]
    joined(given_)
    assert given_ == [message("user", "a", images=["x"]), message("user", "b", images=["y"])]


@given(st.lists(st.builds(message, st.sampled_from(ROLES), st.none() | st.text(max_size=3))))
def test_joined_leaves_no_consecutive_messages_of_one_role(messages: list[dict[str, Any]]) -> None:
    roles = [message["role"] for message in joined(messages)]
    assert not [pair for pair in pairwise(roles) if pair[0] == pair[1] != "tool"]


@given(st.lists(st.builds(message, st.sampled_from(ROLES), st.text(max_size=3))))
def test_joined_is_idempotent(messages: list[dict[str, Any]]) -> None:
    assert joined(joined(messages)) == joined(messages)


# Translation


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        (message("user", "hi"), {"role": "user", "content": "hi"}),
        (message("user"), {"role": "user", "content": ""}),
        (message("system", "Be brief"), {"role": "system", "content": "Be brief"}),
        (
            message("assistant", "4", thinking="2+2"),
            {"role": "assistant", "content": "4", "reasoning": "2+2"},
        ),
        (message("tool", "rain", tool_name="weather"), {"role": "tool", "content": "rain", "name": "weather"}),
        (
            message("user", "it?", images=["AAAA"]),
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "text", "text": "it?"},
                ],
            },
        ),
    ],
)
def test_to_openai_translates_a_message(given_: dict[str, Any], sent: dict[str, Any]) -> None:
    assert to_openai([given_]) == [sent]


def test_to_openai_sends_call_arguments_as_json_text() -> None:
    sent = to_openai([message("assistant", tool_calls=[tool_call(arguments={"city": "서울"})])])
    assert sent[0]["tool_calls"] == [
        {
            "id": "call_00000000",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "서울"}'},
        }
    ]


def test_to_openai_sends_an_empty_object_for_missing_arguments() -> None:
    sent = to_openai([message("assistant", tool_calls=[tool_call()])])
    assert sent[0]["tool_calls"][0]["function"]["arguments"] == "{}"


def ids(*messages: dict[str, Any]) -> list[Any]:
    """The ids of calls and of results, in order."""
    sent = to_openai(messages)
    return [
        [call["id"] for call in message["tool_calls"]] if "tool_calls" in message else message.get("tool_call_id")
        for message in sent
    ]


TWO = message("assistant", tool_calls=[tool_call("one"), tool_call("two")])
NAMED = message("assistant", tool_calls=[tool_call("one", id="a"), tool_call("two", id="b")])
RESULT = message("tool", "1")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([TWO, RESULT, RESULT], [["call_00000000", "call_00000001"], "call_00000000", "call_00000001"]),
        (
            [TWO, RESULT, TWO, RESULT],
            [["call_00000000", "call_00000001"], "call_00000000", ["call_00000002", "call_00000003"], "call_00000002"],
        ),
        ([NAMED, {**RESULT, "tool_call_id": "b"}, RESULT], [["a", "b"], "b", "a"]),
        ([NAMED, {**RESULT, "tool_call_id": "c"}], [["a", "b"], "c"]),
        ([RESULT], [None]),
        ([TWO, RESULT, RESULT, RESULT], [["call_00000000", "call_00000001"], "call_00000000", "call_00000001", None]),
    ],
)
def test_tool_result_gets_the_id_of_its_call(messages: list[dict[str, Any]], expected: list[Any]) -> None:
    assert ids(*messages) == expected


@pytest.mark.parametrize(
    ("given_", "expected"), [([NAMED, {**RESULT, "tool_name": "two"}, {**RESULT, "tool_name": "one"}], ["b", "a"])]
)
def test_tool_result_gets_the_id_of_the_call_of_the_tool_that_it_names(
    given_: list[dict[str, Any]], expected: list[str]
) -> None:
    assert ids(*given_)[1:] == expected


# Start and end of a conversation


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([message("user", "a"), message("assistant", "b")], True),
        ([message("user", "a")], False),
        ([message("assistant", tool_calls=[tool_call()])], False),
        ([message("assistant", "b", tool_calls=[])], True),
        ([], False),
    ],
)
def test_continues_accepts_a_trailing_assistant_message_without_tool_calls(
    messages: list[dict[str, Any]], expected: bool
) -> None:
    assert continues(messages) is expected


PIRATE = Profile(system="Arr", messages=({"role": "user", "content": "Ahoy"},))
SYSTEM = message("system", "Arr")
AHOY = message("user", "Ahoy")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([message("user", "a")], [SYSTEM, AHOY, message("user", "a")]),
        ([message("system", "own"), message("user", "a")], [AHOY, message("system", "own"), message("user", "a")]),
        (
            [message("user", "a"), message("system", "late")],
            [SYSTEM, AHOY, message("user", "a"), message("system", "late")],
        ),
    ],
)
def test_begun_puts_the_profiles_messages_first(messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert begun(messages, PIRATE) == expected


def test_begun_adds_nothing_for_an_empty_profile() -> None:
    assert begun([message("user", "a")], Profile()) == [message("user", "a")]
