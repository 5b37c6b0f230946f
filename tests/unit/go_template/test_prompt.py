"""Prompts and inferred properties, compared with those of Ollama itself (golden/prompts.json)."""

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
def test_prompt_equals_ollamas_prompt(name: str) -> None:
    case = CASES[name]
    text = GOLDEN["templates"][case["template"]]
    if case.get("fails"):
        with pytest.raises(TemplateError):
            prompted(read(text), case)
    else:
        assert prompted(read(text), case) == case.get("text", "")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.get("fails")])
def test_template_has_the_tags_that_ollama_infers(name: str) -> None:
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
def test_variables_are_all_names_that_a_template_reads(template: str, variables: set[str]) -> None:
    assert read(template).variables == variables


def test_prompt_accepts_missing_fields_of_a_message() -> None:
    template = read("{{ range .Messages }}<{{ .Content }}{{ .Thinking }}>{{ end }}")
    messages = [{"role": "user", "content": None}, {"role": "assistant", "thinking": None, "tool_calls": None}]
    assert template.prompt(messages, [], None, TODAY) == "<><>"


def test_numbers_in_json_are_floats_as_in_go() -> None:
    call = {"function": {"name": "f", "arguments": {"n": 5000000}}}
    shown = "{{ .Function.Arguments.n }} {{ .Function.Arguments }}"
    text = f"{{{{ range .Messages }}}}{{{{ range .ToolCalls }}}}{shown}{{{{ end }}}}{{{{ end }}}}"
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert read(text).prompt(messages, [], None, TODAY) == '5e+06 {"n":5000000}'


def test_prompt_does_not_change_the_callers_messages() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    read("{{ range .Messages }}{{ .Content }}{{ end }}").prompt(messages, [], None, TODAY)
    assert messages == [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]


def test_prompt_uses_the_day_of_the_call() -> None:
    assert read("{{ .Messages | len }} {{ currentDate }}").prompt([], [], None, TODAY) == "0 2026-03-01"


@pytest.mark.parametrize(
    "tool", [{}, {"function": None}, {"function": {"name": "f", "parameters": {"properties": {"a": True, "b": {}}}}}]
)
def test_prompt_accepts_an_incomplete_tool(tool: dict[str, Any]) -> None:
    shown = read("{{ .Messages | len }}{{ range .Tools }}{{ json . }}{{ end }}").prompt([], [tool], None, TODAY)
    assert json.loads(shown[1:])["function"]["name"] == ((tool.get("function") or {}).get("name") or "")
