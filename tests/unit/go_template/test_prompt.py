"""Prompts by a Go template: what Ollama itself makes of them, and infers from them (golden/prompts.json)."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ollama_compat.go_template import TemplateError
from ollama_compat.go_template.prompt import PromptTemplate, read

TODAY = date(2026, 3, 1)
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("prompts.json").read_text("utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def prompted(template: PromptTemplate, case: dict[str, Any]) -> str:
    think = case.get("think")
    if case.get("suffix"):
        return template.insertion(case["prompt"], case["suffix"], think, TODAY)
    return template.prompt(case.get("messages") or [], case.get("tools"), think, TODAY)


@pytest.mark.parametrize("name", CASES)
def test_what_ollama_makes_of_a_conversation(name: str) -> None:
    case = CASES[name]
    text = GOLDEN["templates"][case["template"]]
    if case.get("fails"):
        with pytest.raises(TemplateError):
            prompted(read(text), case)
    else:
        assert prompted(read(text), case) == case.get("text", "")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.get("fails")])
def test_what_ollama_infers_from_a_template(name: str) -> None:
    case = CASES[name]
    template = read(GOLDEN["templates"][case["template"]])
    tags = tuple(case["thinking_tags"])
    assert template.thinking_tags == (tags if all(tags) else None)
    assert template.call_tag == case["call_tag"]


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        ("{{ .Prompt }}", {"prompt"}),
        ("{{ if and .Tools (not $.System) }}{{ end }}", {"tools", "$", "system"}),
        ('{{ define "t" }}{{ .Suffix }}{{ end }}{{ .Prompt }}', {"suffix", "prompt"}),
        ("{{ range .Messages }}{{ .Role }}{{ else }}{{ .Nope }}{{ end }}", {"messages", "role", "nope"}),
    ],
)
def test_the_names_that_a_template_reads(template: str, variables: set[str]) -> None:
    assert read(template).variables == variables


def test_a_message_may_lack_what_it_need_not_have() -> None:
    template = read("{{ range .Messages }}<{{ .Content }}{{ .Thinking }}>{{ end }}")
    messages = [{"role": "user", "content": None}, {"role": "assistant", "thinking": None, "tool_calls": None}]
    assert template.prompt(messages, [], None, TODAY) == "<><>"


def test_numbers_of_json_are_gos_floats() -> None:
    call = {"function": {"name": "f", "arguments": {"n": 5000000}}}
    shown = "{{ .Function.Arguments.n }} {{ .Function.Arguments }}"
    text = f"{{{{ range .Messages }}}}{{{{ range .ToolCalls }}}}{shown}{{{{ end }}}}{{{{ end }}}}"
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert read(text).prompt(messages, [], None, TODAY) == '5e+06 {"n":5000000}'


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    read("{{ range .Messages }}{{ .Content }}{{ end }}").prompt(messages, [], None, TODAY)
    assert messages == [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]


def test_the_day_is_the_calls() -> None:
    assert read("{{ .Messages | len }} {{ currentDate }}").prompt([], [], None, TODAY) == "0 2026-03-01"


@pytest.mark.parametrize(
    "tool", [{}, {"function": None}, {"function": {"name": "f", "parameters": {"properties": {"a": True, "b": {}}}}}]
)
def test_a_strange_tool_is_shown_as_far_as_it_goes(tool: dict[str, Any]) -> None:
    shown = read("{{ .Messages | len }}{{ range .Tools }}{{ json . }}{{ end }}").prompt([], [tool], None, TODAY)
    assert json.loads(shown[1:])["function"]["name"] == ((tool.get("function") or {}).get("name") or "")
