"""Parses a Go template into a tree by recursive descent, like Go's own parser.

It supports all actions, variables, pipelines and literals of Go's text/template (1.26), except complex numbers.
Everything else raises `TemplateError`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal as Word
from typing import NoReturn

from .lexer import END, Token, number, tokens, unquoted
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

MAX_DEPTH = 60  # nested blocks and parentheses; Ollama's own templates have fewer than ten


def parse(text: str, functions: Collection[str]) -> Tree:
    """Parse a template that may call the functions named in `functions`. Raises `TemplateError`."""
    parser = _Parser(list(tokens(text)), functions)
    root = parser.template()
    return Tree(root, parser.defined)


class _Parser:
    def __init__(self, tokens: list[Token], functions: Collection[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._functions = functions
        self._names = ["$"]
        self._ranges = 0
        self._depth = 0
        self.defined: dict[str, tuple[Node, ...]] = {}

    def template(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while self._peek().kind != END:
            if self._peek().kind == "left" and self._tokens[self._at + 1].kind == "define":
                self._at += 2
                self._define(self._string("define"), "define")
                continue
            node = self._node()
            if isinstance(node, Token):
                self._fail(node, f"unexpected {{{{{node.kind}}}}}")
            nodes.append(node)
        return tuple(nodes)

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _fail(self, token: Token, problem: str) -> NoReturn:
        raise TemplateError(token.line, problem)

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        self._fail(token, f"unexpected {token.text or token.kind!r} in {context}")

    def _expect(self, kind: str, context: str) -> Token:
        token = self._next()
        if token.kind != kind:
            self._unexpected(token, context)
        return token

    def _deeper(self, token: Token, by: int) -> None:
        self._depth += by
        if self._depth > MAX_DEPTH:
            self._fail(token, f"more than {MAX_DEPTH} nested blocks or parentheses")

    def _string(self, context: str) -> str:
        token = self._expect("string", f"{{{{{context}}}}}")
        return self._value(token)

    def _value(self, token: Token) -> str:
        try:
            return unquoted(token.text)
        except ValueError:
            self._fail(token, f"invalid string {token.text}")

    def _node(self) -> Node | Token:
        """The next node; or the token of an `end` or `else`, which ends a list of nodes."""
        token = self._next()
        if token.kind == "text":
            return Text(token.line, token.text)
        if token.kind != "left":
            self._unexpected(token, "the template")
        token = self._peek()
        match token.kind:
            case "if" | "with" | "range" as kind:
                self._next()
                return self._branch(token, kind)
            case "end":
                self._next()
                self._expect("right", "{{end}}")
                return token
            case "else":
                self._next()
                if self._peek().kind not in ("if", "with"):
                    self._expect("right", "{{else}}")
                return token
            case "break" | "continue" as kind:
                self._next()
                self._expect("right", f"{{{{{kind}}}}}")
                if not self._ranges:
                    self._fail(token, f"{{{{{kind}}}}} outside {{{{range}}}}")
                return Jump(token.line, kind)
            case "template":
                self._next()
                name = self._string("template")
                pipe = None if self._peek().kind == "right" else self._pipe("template clause")
                if pipe is None:
                    self._next()
                return Invoke(token.line, name, pipe)
            case "block":
                self._next()
                name = self._string("block")
                pipe = self._pipe("block clause")
                self._define(name, "block", right=False)
                return Invoke(token.line, name, pipe)
        return Action(token.line, self._pipe("command"))

    def _list(self) -> tuple[tuple[Node, ...], Token]:
        """The nodes before an `end` or `else`, and the token of that."""
        nodes: list[Node] = []
        while True:
            if self._peek().kind == END:
                self._fail(self._peek(), "the template ends before the {{end}} of a block")
            node = self._node()
            if isinstance(node, Token):
                return tuple(nodes), node
            nodes.append(node)

    def _branch(self, token: Token, kind: Word["if", "with", "range"]) -> Branch:
        self._deeper(token, 1)
        names = len(self._names)
        pipe = self._pipe(kind)
        self._ranges += kind == "range"
        body, end = self._list()
        self._ranges -= kind == "range"
        other: tuple[Node, ...] | None = None
        if end.kind == "else":
            following = self._peek()
            if kind != "range" and following.kind == kind:
                self._next()
                other = (self._branch(following, kind),)
            else:
                other, end = self._list()
                if end.kind != "end":
                    self._fail(end, "expected {{end}}, found {{else}}")
        del self._names[names:]
        self._deeper(token, -1)
        return Branch(token.line, kind, pipe, body, other)

    def _define(self, name: str, keyword: str, *, right: bool = True) -> None:
        token = self._peek()
        if right:
            self._expect("right", f"{{{{{keyword}}}}}")
        self._deeper(token, 1)
        outer = self._names, self._ranges
        self._names, self._ranges = ["$"], 0
        body, end = self._list()
        self._names, self._ranges = outer
        self._deeper(token, -1)
        if end.kind != "end":
            self._fail(end, f"unexpected {{{{else}}}} in {{{{{keyword}}}}}")
        if name not in self.defined or _blank(self.defined[name]):
            self.defined[name] = body
        elif not _blank(body):
            self._fail(token, f"template {name!r} is defined twice")

    def _pipe(self, context: str, end: str = "right") -> Pipe:
        first = self._peek()
        declared: list[str] = []
        assigns = False
        while self._peek().kind == "variable" and self._tokens[self._at + 1].kind in ("assign", "declare", "comma"):
            name, sign = self._next().text, self._next()
            declared.append(name)
            self._names.append(name)
            if sign.kind != "comma":
                assigns = sign.kind == "assign"
                break
            if context != "range" or len(declared) > 1:
                self._fail(sign, f"too many declarations in {context}")
            if self._peek().kind not in ("variable", end):
                self._fail(sign, "range can only initialize variables")
        commands: list[tuple[Operand, ...]] = []
        while self._peek().kind != end:
            token = self._peek()
            command = self._command()
            if commands and isinstance(command[0], (Dot, Literal)):
                self._fail(token, f"non executable command {token.text} in a pipeline")
            commands.append(command)
        self._next()
        if not commands:
            self._fail(first, f"missing value for {context}")
        return Pipe(first.line, tuple(declared), assigns, tuple(commands))

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while True:
            operand = self._operand()
            token = self._peek()
            if operand is not None:
                operands.append(operand)
                if token.spaced:
                    continue
            if token.kind == "pipe":
                self._next()
            elif token.kind not in ("right", "close"):
                self._unexpected(token, "an action")
            if not operands:
                self._unexpected(token, "an action")
            return tuple(operands)

    def _operand(self) -> Operand | None:
        """A term with the fields that follow it. None: there is no term."""
        term = self._term()
        if term is None:
            return None
        names = []
        while self._peek().kind == "field" and not self._peek().spaced:
            names.append(self._next().text[1:])
        if not names:
            return term
        match term:
            case Field(line, first):
                return Field(line, (*first, *names))
            case Variable(line, first):
                return Variable(line, (*first, *names))
            case Dot() | Literal():
                self._fail(self._tokens[self._at - 1], f"unexpected .{names[0]} after a value")
        return Chain(term.line, term, tuple(names))

    def _term(self) -> Operand | None:
        token = self._next()
        match token.kind:
            case "word" if token.text in ("true", "false"):
                return Literal(token.line, token.text == "true", token.text)
            case "word":
                if token.text not in self._functions:
                    self._fail(token, f'function "{token.text}" not defined')
                return Function(token.line, token.text)
            case "dot":
                return Dot(token.line)
            case "nil":
                return Literal(token.line, None, "nil")
            case "variable":
                if token.text not in self._names:
                    self._fail(token, f'undefined variable "{token.text}"')
                return Variable(token.line, (token.text,))
            case "field":
                return Field(token.line, (token.text[1:],))
            case "string":
                return Literal(token.line, self._value(token), token.text)
            case "char" | "number":
                try:
                    return Literal(token.line, number(token.text), token.text)
                except ValueError:
                    self._fail(token, f"bad number syntax: {token.text}")
            case "open":
                self._deeper(token, 1)
                pipe = self._pipe("parenthesized pipeline", "close")
                self._deeper(token, -1)
                return pipe
        self._at -= token.kind != END
        return None


def _blank(nodes: tuple[Node, ...]) -> bool:
    return all(isinstance(node, Text) and not node.text.strip() for node in nodes)
