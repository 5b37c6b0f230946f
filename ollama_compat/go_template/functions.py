"""The functions that a Go template may call: Go's built-in ones (text/template, 1.26) and Ollama's (0.33).

`call`, `html`, `js` and `urlquery` are not supported, because no prompt needs them. A function raises `ValueError` for
an invalid argument, and the renderer adds the line. The renderer also checks the number of arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeAlias

from .values import Slice, Struct, Value, formatted, is_nil, kind, sprint, sprintf, to_json, truth


@dataclass(frozen=True, slots=True)
class Callee:
    """A function that a template may call, with `minimum` arguments, or more if it is `variadic`."""

    run: Callable[..., Value]
    minimum: int
    variadic: bool = False


Functions: TypeAlias = Mapping[str, Callee]


def _not(value: Value) -> bool:
    return not truth(value)


def _eq(value: Value, *others: Value) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same(value, other) for other in others)


def _same(left: Value, right: Value) -> bool:
    if left is None or right is None:
        return is_nil(left) and is_nil(right)
    if kind(left) != kind(right):
        raise ValueError(f"incompatible types for comparison: {kind(left)} and {kind(right)}")
    if isinstance(left, (list, dict, Struct)):
        if is_nil(left) or is_nil(right):
            return is_nil(left) and is_nil(right)
        raise ValueError(f"non-comparable type {kind(left)}")
    return left == right


def _ne(left: Value, right: Value) -> bool:
    return not _same(left, right)


def _lt(left: Value, right: Value) -> bool:
    if kind(left) != kind(right):
        raise ValueError(f"incompatible types for comparison: {kind(left)} and {kind(right)}")
    if isinstance(left, str) and isinstance(right, str):
        return left.encode("utf-8", "replace") < right.encode("utf-8", "replace")
    if isinstance(left, (int, float)) and isinstance(right, (int, float)) and not isinstance(left, bool):
        return left < right
    raise ValueError(f"invalid type for comparison: {kind(left)}")


def _le(left: Value, right: Value) -> bool:
    return _lt(left, right) or _same(left, right)


def _gt(left: Value, right: Value) -> bool:
    return not _le(left, right)


def _ge(left: Value, right: Value) -> bool:
    return not _lt(left, right)


def _len(value: Value) -> int:
    """The length. For a string: in bytes."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, (list, dict)):
        return len(value)
    raise ValueError(f"len of type {kind(value)}")


def _index(value: Value, *indices: Value) -> Value:
    for index in indices:
        match value:
            case dict():
                if not isinstance(index, str):
                    raise ValueError(f"cannot index a map with type {kind(index)}")
                value = value.get(index)
            case list():
                value = value[_offset(index, len(value) - 1)]
            case str():
                encoded = value.encode("utf-8", "replace")
                value = encoded[_offset(index, len(encoded) - 1)]
            case _:
                raise ValueError(f"can't index item of type {kind(value)}")
    if not indices and value is None:
        raise ValueError("index of untyped nil")
    return value


def _slice(value: Value, *indices: Value) -> Value:
    """A part of a list or a string. For a string: the indices count bytes."""
    if len(indices) > 2:
        raise ValueError("more than two indexes")
    if isinstance(value, str):
        encoded = value.encode("utf-8", "replace")
        start, end = _range(len(encoded), indices)
        return encoded[start:end].decode("utf-8", "replace")
    if isinstance(value, list):
        start, end = _range(len(value), indices)
        return Slice(value[start:end], prints_json=isinstance(value, Slice) and value.prints_json)
    raise ValueError(f"can't slice item of type {kind(value)}")


def _range(size: int, indices: tuple[Value, ...]) -> tuple[int, int]:
    start = _offset(indices[0], size) if indices else 0
    end = _offset(indices[1], size) if len(indices) > 1 else size
    if start > end:
        raise ValueError(f"invalid slice index: {start} > {end}")
    return start, end


def _offset(index: Value, last: int) -> int:
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"cannot index with type {kind(index)}")
    if not 0 <= index <= last:
        raise ValueError(f"index out of range: {index}")
    return index


def _print(*values: Value) -> str:
    return sprint(values)


def _println(*values: Value) -> str:
    return " ".join(formatted(value) for value in values) + "\n"


def _printf(form: Value, *values: Value) -> str:
    if not isinstance(form, str):
        raise ValueError(f"expected a string, got a {kind(form)}")
    return sprintf(form, values)


def _unreachable(*_: Value) -> Value:
    raise NotImplementedError  # the renderer implements `and` and `or`: they evaluate only the operands they need


BUILTINS: Functions = {
    "and": Callee(_unreachable, 1, variadic=True),
    "or": Callee(_unreachable, 1, variadic=True),
    "not": Callee(_not, 1),
    "eq": Callee(_eq, 1, variadic=True),
    "ne": Callee(_ne, 2),
    "lt": Callee(_lt, 2),
    "le": Callee(_le, 2),
    "gt": Callee(_gt, 2),
    "ge": Callee(_ge, 2),
    "len": Callee(_len, 1),
    "index": Callee(_index, 1, variadic=True),
    "slice": Callee(_slice, 1, variadic=True),
    "print": Callee(_print, 0, variadic=True),
    "printf": Callee(_printf, 1, variadic=True),
    "println": Callee(_println, 0, variadic=True),
}
"""Go's built-in functions."""


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def typescript(value: Value) -> str:
    """The TypeScript type of a tool's property. Any other value is `any`."""
    if not isinstance(value, Struct):
        return "any"
    alternatives, types = value.fields.get("AnyOf"), value.fields.get("Type")
    if isinstance(alternatives, list) and alternatives:
        return " | ".join(typescript(each) for each in alternatives)
    names = types if isinstance(types, list) and types else ["any"]
    return " | ".join(_TYPESCRIPT.get(str(name), "any") for name in names)


def ollama_functions(today: date) -> Functions:
    """The functions that Ollama adds. `today` is the date of `currentDate`, which ignores its arguments."""

    def current(*_: Value) -> str:
        return today.isoformat()

    def yesterday(*_: Value) -> str:
        return (today - timedelta(days=1)).isoformat()

    return {
        "json": Callee(to_json, 1),
        "currentDate": Callee(current, 0, variadic=True),
        "yesterdayDate": Callee(yesterday, 0, variadic=True),
        "toTypeScriptType": Callee(typescript, 1),
    }
