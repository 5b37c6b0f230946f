"""The tree of a Go template, in the shape of Go's own (text/template/parse): Ollama reads things off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias


class TemplateError(ValueError):
    """A template can't be read or rendered: the line, and what is not understood there."""

    def __init__(self, line: int, problem: str) -> None:
        """`line` counts from 1; `problem` quotes what the user wrote."""
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True, slots=True)
class Text:
    """What is rendered as it is."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`, from the dot."""

    line: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; the first name is the variable's, with its `$`."""

    line: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(…).A.B`."""

    line: int
    operand: Operand
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`, the value that an action is about."""

    line: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number or bool, or `nil`."""

    line: int
    value: str | int | float | bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Pipe:
    """`$x := command | command`; a command is its operands."""

    line: int
    declared: tuple[str, ...]
    assigns: bool
    """`$x = …` and not `$x := …`."""
    commands: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`."""

    line: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with its body and its `else`."""

    line: int
    kind: Word["if", "with", "range"]
    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{ template "name" pipeline }}`."""

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
    """A template that was read: its nodes, and the templates that it defines."""

    root: tuple[Node, ...]
    defined: Mapping[str, tuple[Node, ...]]
