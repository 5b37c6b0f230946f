"""The syntax tree of a Go template, with the structure of Go's text/template/parse: Ollama analyses that tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias


class TemplateError(ValueError):
    """A template cannot be parsed or rendered. The text names the line and the problem."""

    def __init__(self, line: int, problem: str) -> None:
        """`line` counts from 1. `problem` quotes the template."""
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True, slots=True)
class Text:
    """Text between actions, which is rendered unchanged."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`: fields of the dot."""

    line: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`. The first name is the variable, with its `$`."""

    line: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(...).A.B`: fields of a parenthesized operand."""

    line: int
    operand: Operand
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`: the current value."""

    line: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, bool or `nil`. `text` is its source."""

    line: int
    value: str | int | float | bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Pipe:
    """`$x := command | command`. A command is a sequence of operands."""

    line: int
    declared: tuple[str, ...]
    assigns: bool
    """Whether it assigns (`$x = ...`) instead of declaring (`$x := ...`)."""
    commands: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`: renders its value."""

    line: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with its body and its `else` list (None: it has none)."""

    line: int
    kind: Word["if", "with", "range"]
    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{ template "name" pipeline }}`: renders a defined template."""

    line: int
    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`{{ break }}` or `{{ continue }}`."""

    line: int
    kind: Word["break", "continue"]


Operand: TypeAlias = Field | Variable | Chain | Function | Dot | Literal | Pipe
Node: TypeAlias = Text | Action | Branch | Invoke | Jump


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed template: its nodes, and the templates that it defines (name -> nodes)."""

    root: tuple[Node, ...]
    defined: Mapping[str, tuple[Node, ...]]
