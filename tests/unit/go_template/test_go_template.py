"""The template language: results of Go itself (golden/language.json), error texts, and bounds."""

from __future__ import annotations

import contextlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_compat.go_template import BUILTINS, Map, Slice, Struct, TemplateError, ollama_functions, parse, render

TODAY = date(2026, 3, 1)
FUNCTIONS = ollama_functions(TODAY)
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("language.json").read_text("utf-8"))


def as_go(value: Any) -> Any:
    """A JSON value as Go decodes it: a number is a float."""
    if isinstance(value, dict):
        return {key: as_go(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_go(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def rendered(template: str, data: Any = None) -> str:
    return render(parse(template, {**BUILTINS, **FUNCTIONS}), data, FUNCTIONS)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["template"])
def test_render_returns_the_text_that_go_renders(case: dict[str, Any]) -> None:
    data = as_go(GOLDEN["data"])
    if case.get("fails"):
        with pytest.raises(TemplateError):
            rendered(case["template"], data)
    else:
        assert rendered(case["template"], data) == case.get("text", "")


# Errors


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("a\n\n{{ upper .X }}", 'line 3: function "upper" not defined'),
        ("{{ html .X }}", 'line 1: function "html" not defined'),
        ("{{ if .X }}\n\n", "line 3: the template ends before the {{end}} of a block"),
        ("\n{{ .X", "line 2: unclosed action"),
        ("{{ .X\n|\n@ }}", "line 3: unexpected '@' in an action"),
        ("{{- /* a\nb */ -}}\n{{ $x }}", 'line 3: undefined variable "$x"'),
        ("\n{{ .X.Y }}", "line 2: nil pointer evaluating .Y"),
        ('\n{{ .S.Y | printf "%s" }}', "line 2: can't evaluate field Y in type string"),
        ("{{ printf `%5d` 1 }}", "line 1: printf: the verb '%5' is not supported"),
        ("{{ printf `%d` `a` }}", "line 1: printf: %d of a string"),
        ("{{ printf `%s` }}", "line 1: printf: no value for %s in '%s'"),
        ("{{ printf `%s` 1 2 }}", "line 1: printf: %s of a int"),
        ("{{ len }}", "line 1: wrong number of args for len: want 1 got 0"),
        ("{{ index }}", "line 1: wrong number of args for index: want at least 1 got 0"),
    ],
)
def test_template_error_names_the_line_and_the_problem(template: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        rendered(template, {"S": "text"})
    assert str(caught.value) == error


# Values


TOOL = Struct("tool", {"Name": "f<x>", "Tags": Slice(["a"])}, {"name": "f<x>", "tags": Slice(["a"])}, prints_json=True)


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{{ .Name }} {{ . }}", TOOL, 'f<x> {"name":"f\\u003cx\\u003e","tags":["a"]}'),
        ("{{ . }}", Struct("pair", {"B": "x", "A": 1, "N": None}), "{x 1 <nil>}"),
        ("{{ json . }}", Struct("pair", {"B": "x", "A": 1}), '{"B":"x","A":1}'),
        ("{{ json . }} {{ . }} {{ len . }}", Slice(nil=True), "null [] 0"),
        ("{{ if . }}some{{ else }}none{{ end }} {{ eq . nil }}", Slice(nil=True), "none true"),
        ("{{ . }} {{ json . }}", Map({"b": 1.0, "a": True}), '{"a":true,"b":1} {"a":true,"b":1}'),
        ("{{ . }} {{ json . }}", Map(None), "{} null"),
        ("{{ slice . 1 }}", Slice(["a", "b"], prints_json=True), '["b"]'),
        ("{{ printf `%s` . }}", Map({}), "{}"),
        ("{{ if . }}a struct is true{{ end }}", Struct("empty", {}), "a struct is true"),
        ("{{ json . }}", "\ud800", '"\ufffd"'),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_values_are_formatted_like_gos_types(template: str, value: Any, text: str) -> None:
    assert rendered(template, value) == text


def test_unknown_field_of_a_struct_raises_template_error() -> None:
    with pytest.raises(TemplateError, match="can't evaluate field Nope in type tool"):
        rendered("{{ .Nope }}", TOOL)


# Ollama's functions


def test_date_functions_use_the_given_day() -> None:
    assert rendered("{{ currentDate }} {{ currentDate `2006` }} {{ yesterdayDate }}") == (
        "2026-03-01 2026-03-01 2026-02-28"
    )


@pytest.mark.parametrize(
    ("types", "alternatives", "text"),
    [
        (["string"], [], "string"),
        (["integer", "null"], [], "number | null"),
        (["array"], [], "any[]"),
        (["object"], [], "Record<string, any>"),
        (["other"], [], "any"),
        ([], [], "any"),
        ([], [Struct("p", {"Type": ["boolean"]}), Struct("p", {"Type": ["string"]})], "boolean | string"),
    ],
)
def test_typescript_type_of_a_property(types: list[Any], alternatives: list[Any], text: str) -> None:
    assert rendered("{{ toTypeScriptType . }}", Struct("p", {"Type": types, "AnyOf": alternatives})) == text
    assert rendered("{{ toTypeScriptType . }}", "no property") == "any"


# Bounds


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ range 1000000000 }}{{ end }}", "steps"),
        ("{{ range 99999 }}{{ range 99999 }}{{ end }}{{ end }}", "steps"),
        ('{{ $x := "ab" }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}', "characters|steps"),
        ('{{ $x := "ab" }}{{ range 999999 }}{{ $x = print $x "abcdefgh" }}{{ end }}', "characters|steps"),
        ('{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}', "nested blocks"),
        ("{{ if true }}" * 200 + "{{ end }}" * 200, "nested blocks or parentheses"),
        ("{{ " + "(" * 200 + "1" + ")" * 200 + " }}", "nested blocks or parentheses"),
    ],
    ids=lambda text: text[:40],
)
def test_template_beyond_a_bound_raises_template_error(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_compat.go_template.renderer.MAX_STEPS", 100_000)
    with pytest.raises(TemplateError, match=reason):
        rendered(template)


def test_break_and_continue_do_not_add_to_the_depth() -> None:
    assert rendered("{{ range 999 }}{{ if true }}{{ continue }}{{ end }}{{ end }}whole") == "whole"
    assert rendered("{{ range 999 }}{{ range 9 }}{{ if true }}{{ break }}{{ end }}{{ end }}{{ end }}whole") == "whole"


def test_trim_markers_remove_only_gos_white_space() -> None:
    assert rendered("\u00a0 \t{{- 1 -}}\r\n \u2003") == "\u00a01\u2003"


def test_data_that_is_nested_too_deeply_raises_template_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="nested too deeply"):
        rendered("{{ json . }}", deep)


PUNCTUATION = ["{{", "}}", "{{-", "-}}", "(", ")", "|", ",", ":=", "=", "/*", "*/", "\n", "text"]
KEYWORDS = ["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue", "nil", "true"]
VALUES = [".", ".A", ".B.C", "$", "$x", '"a"', "`b`", "'c'", "1", "-2", "1.5", "0x", '"%s"', '"%d"']
WORDS = st.sampled_from([*PUNCTUATION, *KEYWORDS, *VALUES, *BUILTINS, *FUNCTIONS])
DATA: dict[str, Any] = {"A": "text", "B": {"C": [1.0, "x", None, True]}}


@given(st.lists(WORDS, max_size=40).map(" ".join) | st.text(st.sampled_from("{}-. $x:=|()\"'`/*aA1%\n"), max_size=60))
def test_any_text_is_rendered_or_raises_template_error(template: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(rendered(template, DATA), str)


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_is_unchanged(text: str) -> None:
    assert rendered(text) == text


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_json_function_returns_valid_json(value: Any) -> None:
    assert json.loads(rendered("{{ json . }}", value), parse_int=float) == value
