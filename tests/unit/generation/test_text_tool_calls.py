"""Tool calls in the text of an answer. The parser finds the same calls as Ollama, however the text is split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.generation.text_tool_calls import TextToolCallParser

TOOLS = ("get", "get_weather")
CALL = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
ROME = ("get_weather", {"city": "Rome"})


def parse(tag: str, *pieces: str) -> tuple[str, list[tuple[str, Any]]]:
    """The content and the tool calls of an answer that arrives in these pieces."""
    parser = TextToolCallParser(tag, TOOLS)
    content, calls = "", []
    for piece in pieces:
        text, found = parser.feed(piece)
        content += text
        calls += [(call["function"]["name"], call["function"]["arguments"]) for call in found]
    return content + parser.finish(), calls


@pytest.mark.parametrize(
    ("tag", "text", "content", "calls"),
    [
        ("<tool_call>", f"<tool_call>\n{CALL}\n</tool_call>", "", [ROME]),
        ("<tool_call>", f"I'll look.\n<tool_call>{CALL}</tool_call>", "I'll look.\n", [ROME]),
        ("<tool_call>", f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", [ROME, ROME]),
        ("<tool_call>", "2 < 3", "2 < 3", []),
        ("<tool_call>", "so <", "so <", []),
        ("<tool_call>", '<tool_call>{"name": "nope", "arguments": {}}', "", []),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": {"a"', "", []),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": {a: 1}}', "", []),
        ("<tool_call>", '<tool_call>{"name": "get"}', "", []),
        ("<tool_call>", f'<tool_call>{{"name": "get"}}{CALL}', "", []),
        ("<tool_call>", '<tool_call>{"name": "get", "parameters": {"a": "}\\""}}', "", [("get", {"a": '}"'})]),
        ("<tool_call>", '<tool_call>{"name": "get", "arguments": "{\\"a\\": 1}"}', "", [("get", {"a": 1})]),
        ("<tool_call>", '<tool_call>{"get": {"a": 1}}', "", [("get", {"a": 1})]),
        ("<tool_call>", '<tool_call>{"calls": [{"name": "get", "arguments": {"a": 1}}]}', "", [("get", {"a": 1})]),
        ("<tool_call>", '<tool_call>get{"a": 1}', "", [("get", {"a": 1})]),
        ("[TOOL_CALLS]", f"[TOOL_CALLS] [{CALL}, {CALL}]", "", [ROME, ROME]),
        ("{", CALL, "", [ROME]),
        ("{", f"\n {CALL}", "\n ", [ROME]),
        ("{", f"Like this: {CALL}", f"Like this: {CALL}", []),
        ("{", '{"city": "Rome"} is it', '{"city": "Rome"} is it', []),
        ("{", '{"city": "Ro', '{"city": "Ro', []),
        ("{", f'{CALL}\n{{"city": "Rome"}}', "", [ROME]),
        ("[", f"[{CALL}]", "", [ROME]),
        ("[", "[1, 2] are numbers", "[1, 2] are numbers", []),
        ("[", "No.", "No.", []),
    ],
)
def test_parser_separates_calls_from_content(tag: str, text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    assert parse(tag, text) == (content, calls)
    assert parse(tag, *text) == (content, calls)


WORDS = ["<tool_call>", "<tool", CALL, '{"get": {}}', "[", "]", "{", "}", '"', "\\", "get", " ", "é"]


@given(st.sampled_from(["<tool_call>", "{", "["]), st.lists(st.sampled_from(WORDS), max_size=8).map("".join), st.data())
def test_calls_do_not_depend_on_chunks(tag: str, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(tag, *pieces) == parse(tag, text)


def test_calls_are_numbered() -> None:
    _, calls = TextToolCallParser("<tool_call>", TOOLS).feed(f"<tool_call>{CALL}{CALL}")
    assert calls[1] == {
        "id": "call_00000001",
        "function": {"index": 1, "name": "get_weather", "arguments": {"city": "Rome"}},
    }
