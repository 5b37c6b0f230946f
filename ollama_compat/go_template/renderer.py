"""Renders the tree of a Go template like Go's text/template (1.26, exec.go and funcs.go), with bounded work.

Values represent those of Go (values.py). A missing map key is nil, because Ollama sets `missingkey=zero`. Variables are
on a stack: the end of a block removes those of the block, and an invoked template has only its own `$`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from .functions import BUILTINS, Callee, Functions
from .nodes import (
    Action,
    Branch,
    Chain,
    Dot,
    Field,
    Function,
    Invoke,
    Jump,
    Literal,
    Node,
    Operand,
    Pipe,
    TemplateError,
    Text,
    Tree,
    Variable,
)
from .values import Struct, Value, formatted, kind, truth

MAX_STEPS = 2_000_000  # a conversation of ten thousand messages needs a quarter of them
MAX_TEXT = 1 << 24  # characters, many times the largest window
MAX_DEPTH = 100  # nested blocks and templates while rendering


def render(tree: Tree, data: Value, functions: Functions) -> str:
    """Render a template with the dot `data`. `functions` extend Go's built-in ones. Raises `TemplateError`."""
    renderer = _Renderer(tree, {**BUILTINS, **functions})
    try:
        renderer.walk(tree.root, data, [("$", data)])
    except RecursionError:
        raise TemplateError(1, "the template or its data is nested too deeply") from None
    return "".join(renderer.texts)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


Variables: TypeAlias = list[tuple[str, Value]]
Piped: TypeAlias = tuple[Value, ...]  # the value of the previous command of the pipeline, if there is one


class _Renderer:
    def __init__(self, tree: Tree, functions: Functions) -> None:
        self._tree = tree
        self._functions = functions
        self.texts: list[str] = []
        self._size = 0
        self._steps = 0
        self._depth = 0

    def walk(self, nodes: Sequence[Node], dot: Value, variables: Variables) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError(nodes[0].line if nodes else 1, f"more than {MAX_DEPTH} nested blocks")
        for node in nodes:
            self._step(node.line)
            self._node(node, dot, variables)
        self._depth -= 1

    def _step(self, line: int, number: int = 1) -> None:
        self._steps += number
        if self._steps > MAX_STEPS:
            raise TemplateError(line, f"the template needs more than {MAX_STEPS} steps")

    def _write(self, text: str, line: int) -> None:
        self._size += len(text)
        if self._size > MAX_TEXT:
            raise TemplateError(line, f"the prompt is longer than {MAX_TEXT} characters")
        self.texts.append(text)

    def _node(self, node: Node, dot: Value, variables: Variables) -> None:
        match node:
            case Text(line, text):
                self._write(text, line)
            case Action(line, pipe):
                value = self._pipe(pipe, dot, variables)
                if not pipe.declared:
                    self._write("<no value>" if value is None else formatted(value), line)
            case Branch():
                self._branch(node, dot, variables)
            case Invoke(line, name, pipe):
                if name not in self._tree.defined:
                    raise TemplateError(line, f'template "{name}" not defined')
                value = self._pipe(pipe, dot, variables) if pipe else None
                self.walk(self._tree.defined[name], value, [("$", value)])
            case Jump(_, "break"):
                raise _Break
            case Jump():
                raise _Continue

    def _branch(self, branch: Branch, dot: Value, variables: Variables) -> None:
        mark, depth = len(variables), self._depth
        if branch.kind == "range":
            try:
                self._range(branch, dot, variables)
            except _Break:
                self._depth = depth
        else:
            value = self._pipe(branch.pipe, dot, variables)
            if truth(value):
                self.walk(branch.body, value if branch.kind == "with" else dot, variables)
            elif branch.other is not None:
                self.walk(branch.other, dot, variables)
        del variables[mark:]

    def _range(self, branch: Branch, dot: Value, variables: Variables) -> None:
        names = branch.pipe.declared
        value = self._pipe(branch.pipe, dot, variables)
        mark, depth = len(variables), self._depth
        empty = True
        for index, item in _items(value, branch):
            empty = False
            self._step(branch.line)
            values = (index, item) if len(names) > 1 else (item,)
            for i, (name, each) in enumerate(zip(names, values, strict=False)):
                if branch.pipe.assigns:
                    _assign(variables, name, each, branch.line)
                else:
                    variables[mark - len(names) + i] = (name, each)
            try:
                self.walk(branch.body, item, variables)
            except _Continue:
                self._depth = depth
            del variables[mark:]
        if empty and branch.other is not None:
            self.walk(branch.other, dot, variables)

    def _pipe(self, pipe: Pipe, dot: Value, variables: Variables) -> Value:
        value: Value = None
        for i, command in enumerate(pipe.commands):
            self._step(pipe.line)
            value = self._command(command, dot, variables, (value,) if i else ())
        for name in pipe.declared:
            if pipe.assigns:
                _assign(variables, name, value, pipe.line)
            else:
                variables.append((name, value))
        return value

    def _command(self, command: Sequence[Operand], dot: Value, variables: Variables, piped: Piped) -> Value:
        first = command[0]
        if isinstance(first, Function):
            return self._call(first, command[1:], dot, variables, piped)
        if len(command) > 1 or piped:
            raise TemplateError(first.line, f"can't give argument to non-function {_source(first)}")
        if isinstance(first, Literal) and first.value is None:
            raise TemplateError(first.line, "nil is not a command")
        return self._operand(first, dot, variables)

    def _call(
        self, function: Function, operands: Sequence[Operand], dot: Value, variables: Variables, piped: Piped
    ) -> Value:
        if function.name in ("and", "or"):
            return self._and_or(function, operands, dot, variables, piped)
        values = [*(self._operand(operand, dot, variables) for operand in operands), *piped]
        self._step(function.line, 1 + (sum(len(value) for value in values if isinstance(value, (str, list))) >> 8))
        callee = self._functions[function.name]
        _check_argument_count(function, callee, len(values))
        try:
            value = callee.run(*values)
        except ValueError as problem:
            raise TemplateError(function.line, f"{function.name}: {problem}") from None
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise TemplateError(function.line, f"{function.name}: the result is longer than {MAX_TEXT} characters")
        return value

    def _and_or(
        self, function: Function, operands: Sequence[Operand], dot: Value, variables: Variables, piped: Piped
    ) -> Value:
        """`and` and `or` evaluate only the operands that they need."""
        _check_argument_count(function, self._functions[function.name], len(operands) + len(piped))
        value: Value = None
        for operand in operands:
            value = self._operand(operand, dot, variables)
            if truth(value) == (function.name == "or"):
                return value
        return piped[0] if piped else value

    def _operand(self, operand: Operand, dot: Value, variables: Variables) -> Value:
        self._step(operand.line)
        match operand:
            case Literal():
                return operand.value
            case Dot():
                return dot
            case Field(line, names):
                return _fields(dot, names, line)
            case Variable(line, names):
                return _fields(_variable(variables, names[0], line), names[1:], line)
            case Chain(line, inner, names):
                return _fields(self._operand(inner, dot, variables), names, line)
            case Function():
                return self._call(operand, (), dot, variables, ())
            case Pipe():
                return self._pipe(operand, dot, variables)


def _check_argument_count(function: Function, callee: Callee, given: int) -> None:
    """Raise `TemplateError` unless the function accepts `given` arguments."""
    if given < callee.minimum or (given > callee.minimum and not callee.variadic):
        wanted = f"at least {callee.minimum}" if callee.variadic else str(callee.minimum)
        raise TemplateError(function.line, f"wrong number of args for {function.name}: want {wanted} got {given}")


def _variable(variables: Variables, name: str, line: int) -> Value:
    for known, value in reversed(variables):
        if known == name:
            return value
    raise TemplateError(line, f'undefined variable "{name}"')


def _assign(variables: Variables, name: str, value: Value, line: int) -> None:
    """Set the innermost variable of that name."""
    for i in range(len(variables) - 1, -1, -1):
        if variables[i][0] == name:
            variables[i] = (name, value)
            return
    raise TemplateError(line, f'undefined variable "{name}"')


def _fields(value: Value, names: Sequence[str], line: int) -> Value:
    """`.A.B` of a value. It is nil if the value itself is nil. A nil between two names raises `TemplateError`."""
    if value is None:
        return None
    for name in names:
        if isinstance(value, Struct) and name in value.fields:
            value = value.fields[name]
        elif isinstance(value, dict):
            value = value.get(name)
        elif value is None:
            raise TemplateError(line, f"nil pointer evaluating .{name}")
        else:
            raise TemplateError(line, f"can't evaluate field {name} in type {kind(value)}")
    return value


def _items(value: Value, branch: Branch) -> Iterator[tuple[Value, Value]]:
    match value:
        case None:
            return
        case int() if not isinstance(value, bool):
            if len(branch.pipe.declared) > 1:
                raise TemplateError(branch.line, f"can't use {value} to iterate over more than one variable")
            yield from ((None, i) for i in range(value))
        case list():
            yield from enumerate(value)
        case dict():
            yield from ((key, value[key]) for key in sorted(value))
        case _:
            raise TemplateError(branch.line, f"range can't iterate over a {kind(value)}")


def _source(operand: Operand) -> str:
    match operand:
        case Literal():
            return operand.text
        case Field():
            return "." + ".".join(operand.names)
        case Variable():
            return ".".join(operand.names)
        case Dot():
            return "."
    return "a parenthesis"
