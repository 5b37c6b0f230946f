"""What Ollama reads off a template's tree: its variables, the tags of thoughts and of tool calls, and where to cut it.

The rules are Ollama 0.33's (template/template.go, thinking/template.go, tools/template.go), heuristics and all: a model
is said to think because its template writes `.Thinking` between two texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .nodes import Action, Branch, Field, Invoke, Node, Operand, Pipe, TemplateError, Text, Tree, Variable

NO_TAG = "{"
"""The tag of a template that has none: a tool call is a JSON object then."""


def variables(tree: Tree) -> frozenset[str]:
    """The names of all fields and variables, in lower case. Raises `TemplateError` for an `Invoke` without a value,
    which Ollama takes in no template."""
    return frozenset(name.lower() for nodes in (tree.root, *tree.defined.values()) for name in _names(nodes))


def _names(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        match node:
            case Action():
                yield from _of_pipe(node.pipe)
            case Branch():
                yield from _of_pipe(node.pipe)
                yield from _names(node.body)
                yield from _names(node.other or ())
            case Invoke(line, name, pipe):
                if pipe is None:
                    raise TemplateError(line, f'{{{{ template "{name}" }}}} without a value')
                yield from _of_pipe(pipe)


def _of_pipe(pipe: Pipe) -> Iterator[str]:
    for operand in _operands(pipe):
        match operand:
            case Field() | Variable():
                yield from operand.names
            case Pipe():
                yield from _of_pipe(operand)


def _operands(pipe: Pipe) -> Iterator[Operand]:
    for command in pipe.commands:
        yield from command


def thinking_tags(tree: Tree) -> tuple[str, str] | None:
    """What opens and closes a thought: the first and the last text of the list of nodes that `.Thinking` stands in,
    within a `range` over `.Messages`; None where there is no such pair."""
    search = _Search()
    search.nodes(tree.root, over_messages=False)
    return (search.opening, search.closing) if search.opening and search.closing else None


@dataclass
class _Search:
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
        """Each place that names it may correct what an earlier one showed."""
        if not over_messages or not _reads(pipe, "Thinking"):
            return
        if isinstance(nodes[0], Text):
            self.opening = nodes[0].text.strip()
        if isinstance(nodes[-1], Text):
            self.closing = nodes[-1].text.strip()


def _reads(pipe: Pipe, name: str) -> bool:
    """Whether the pipeline has the field `name` of the dot."""
    return any(
        operand.names[0] == name if isinstance(operand, Field) else isinstance(operand, Pipe) and _reads(operand, name)
        for operand in _operands(pipe)
    )


def call_tag(tree: Tree) -> str:
    """What a tool call begins with: the first text under the first `if` of `.ToolCalls`, up to a brace."""
    branch = _of_calls(tree.root)
    text = _first_text(branch.body) if branch is not None else None
    tag = (text or "").replace("\r\n", "\n").partition("{")[0].strip()
    return tag or NO_TAG


def _of_calls(nodes: Sequence[Node]) -> Branch | None:
    for node in nodes:
        if not isinstance(node, Branch):
            continue
        fields = (operand for operand in _operands(node.pipe) if isinstance(operand, Field))
        if node.kind == "if" and any("ToolCalls" in field.names for field in fields):
            return node
        found = _of_calls(node.body) or _of_calls(node.other or ())
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
    """The template up to its first `.Response`: what the model writes comes there, and nothing after it."""
    return replace(tree, root=_Cut().nodes(tree.root))


@dataclass
class _Cut:
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
        """None where a command loses all that it has."""
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
