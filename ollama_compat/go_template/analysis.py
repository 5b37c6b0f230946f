"""Infers the properties of a model from its template: variables, thinking tags, and the tag of tool calls.

The rules, including their heuristics, are those of Ollama 0.33 (template/template.go, thinking/template.go,
tools/template.go). For example, a model supports thinking if its template renders `.Thinking` between two texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .nodes import Action, Branch, Field, Invoke, Node, Operand, Pipe, TemplateError, Text, Tree, Variable

NO_TAG = "{"
"""The start of a tool call if the template has no tag: the call is a JSON object."""


def variables(tree: Tree) -> frozenset[str]:
    """The names of all fields and variables, in lower case.

    Raises `TemplateError` for an `Invoke` without a value, because Ollama rejects such a template.
    """
    return frozenset(name.lower() for nodes in (tree.root, *tree.defined.values()) for name in _names(nodes))


def _names(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        match node:
            case Action():
                yield from _names_in_pipe(node.pipe)
            case Branch():
                yield from _names_in_pipe(node.pipe)
                yield from _names(node.body)
                yield from _names(node.other or ())
            case Invoke(line, name, pipe):
                if pipe is None:
                    raise TemplateError(line, f'{{{{ template "{name}" }}}} without a value')
                yield from _names_in_pipe(pipe)


def _names_in_pipe(pipe: Pipe) -> Iterator[str]:
    for operand in _operands(pipe):
        match operand:
            case Field() | Variable():
                yield from operand.names
            case Pipe():
                yield from _names_in_pipe(operand)


def _operands(pipe: Pipe) -> Iterator[Operand]:
    for command in pipe.commands:
        yield from command


def thinking_tags(tree: Tree) -> tuple[str, str] | None:
    """The opening and the closing tag of thinking text. None: the template has none.

    They are the first and the last text of the list of nodes that contains `.Thinking`, in a `range` over `.Messages`.
    """
    search = _ThinkingSearch()
    search.nodes(tree.root, over_messages=False)
    return (search.opening, search.closing) if search.opening and search.closing else None


@dataclass
class _ThinkingSearch:
    opening: str = ""
    closing: str = ""

    def nodes(self, nodes: Sequence[Node], *, over_messages: bool) -> None:
        for node in nodes:
            match node:
                case Action():
                    self._pipe(node.pipe, nodes, over_messages)
                case Invoke(_, _, pipe) if pipe is not None:
                    self._pipe(pipe, nodes, over_messages)
                case Branch():
                    inside = over_messages if node.kind != "range" else _reads(node.pipe, "Messages")
                    self._pipe(node.pipe, nodes, inside)
                    self.nodes(node.body, over_messages=inside)
                    self.nodes(node.other or (), over_messages=inside)

    def _pipe(self, pipe: Pipe, nodes: Sequence[Node], over_messages: bool) -> None:
        """Set the tags if the pipeline reads `.Thinking`. A later occurrence overrides an earlier one."""
        if not over_messages or not _reads(pipe, "Thinking"):
            return
        if isinstance(nodes[0], Text):
            self.opening = nodes[0].text.strip()
        if isinstance(nodes[-1], Text):
            self.closing = nodes[-1].text.strip()


def _reads(pipe: Pipe, name: str) -> bool:
    """Whether the pipeline reads the field `name` of the dot."""
    return any(
        operand.names[0] == name if isinstance(operand, Field) else isinstance(operand, Pipe) and _reads(operand, name)
        for operand in _operands(pipe)
    )


def call_tag(tree: Tree) -> str:
    """The start of a tool call: the first text in the first `if` on `.ToolCalls`, up to a brace."""
    branch = _tool_calls_branch(tree.root)
    text = _first_text(branch.body) if branch is not None else None
    tag = (text or "").replace("\r\n", "\n").partition("{")[0].strip()
    return tag or NO_TAG


def _tool_calls_branch(nodes: Sequence[Node]) -> Branch | None:
    for node in nodes:
        if not isinstance(node, Branch):
            continue
        fields = (operand for operand in _operands(node.pipe) if isinstance(operand, Field))
        if node.kind == "if" and any("ToolCalls" in field.names for field in fields):
            return node
        found = _tool_calls_branch(node.body) or _tool_calls_branch(node.other or ())
        if found is not None:
            return found
    return None


def _first_text(nodes: Sequence[Node]) -> str | None:
    for node in nodes:
        match node:
            case Text(_, text) if text.strip():
                return text
            case Branch():
                return _first_text(node.body) or _first_text(node.other or ())
            case Action():
                return None
    return None


def until_response(tree: Tree) -> Tree:
    """The template up to and including its first `.Response`: the model's answer follows there."""
    return replace(tree, root=_Truncation().nodes(tree.root))


@dataclass
class _Truncation:
    done: bool = False

    def nodes(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(kept for node in nodes if (kept := self._node(node)) is not None)

    def _node(self, node: Node) -> Node | None:
        if self.done:
            return None
        match node:
            case Branch():
                body = self.nodes(node.body)
                return replace(node, body=body, other=None if node.other is None else self.nodes(node.other))
            case Action():
                pipe = self._pipe(node.pipe)
                return None if pipe is None else replace(node, pipe=pipe)
        return node

    def _pipe(self, pipe: Pipe) -> Pipe | None:
        """The pipeline without the operands after `.Response`. None: a command has no operand left."""
        commands = []
        for command in pipe.commands:
            kept = tuple(operand for each in command if (operand := self._operand(each)) is not None)
            if not kept:
                return None
            commands.append(kept)
        return replace(pipe, commands=tuple(commands))

    def _operand(self, operand: Operand) -> Operand | None:
        if self.done:
            return None
        if isinstance(operand, Field) and "Response" in operand.names:
            self.done = True
        return self._pipe(operand) if isinstance(operand, Pipe) else operand
