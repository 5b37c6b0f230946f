"""The functions that a Go template may call: Go's own (text/template, 1.26), and those that Ollama adds (0.33).

`call`, `html`, `js` and `urlquery` are left out: no prompt needs them. A wrong argument is a `ValueError`; the renderer
adds the line, and counts the arguments itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeAlias

from .values import Slice, Struct, Value, is_nil, kind, sprint, sprintf, to_json, truth, written


@dataclass(frozen=True, slots=True)
class Callee:
    """What a template may call: with at least `wanted` values, with more of them where `more` says so."""

    run: Callable[..., Value]
    wanted: int
    more: bool = False


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
    """Of a string: its bytes."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, (list, dict)):
        return len(value)
    raise ValueError(f"len of type {kind(value)}")


def _index(value: Value, *places: Value) -> Value:
    for place in places:
        match value:
            case dict():
                if not isinstance(place, str):
                    raise ValueError(f"a map can't be indexed with a {kind(place)}")
                value = value.get(place)
            case list():
                value = value[_place(place, len(value) - 1)]
            case str():
                letters = value.encode("utf-8", "replace")
                value = letters[_place(place, len(letters) - 1)]
            case _:
                raise ValueError(f"can't index item of type {kind(value)}")
    if not places and value is None:
        raise ValueError("index of untyped nil")
    return value


def _slice(value: Value, *places: Value) -> Value:
    """Of a string: its bytes."""
    if len(places) > 2:
        raise ValueError("more than two indexes")
    if isinstance(value, str):
        letters = value.encode("utf-8", "replace")
        start, end = _range(len(letters), places)
        return letters[start:end].decode("utf-8", "replace")
    if isinstance(value, list):
        start, end = _range(len(value), places)
        return Slice(value[start:end], shown=isinstance(value, Slice) and value.shown)
    raise ValueError(f"can't slice item of type {kind(value)}")


def _range(size: int, places: tuple[Value, ...]) -> tuple[int, int]:
    start = _place(places[0], size) if places else 0
    end = _place(places[1], size) if len(places) > 1 else size
    if start > end:
        raise ValueError(f"invalid slice index: {start} > {end}")
    return start, end


def _place(place: Value, last: int) -> int:
    if not isinstance(place, int) or isinstance(place, bool):
        raise ValueError(f"cannot index with type {kind(place)}")
    if not 0 <= place <= last:
        raise ValueError(f"index out of range: {place}")
    return place


def _print(*values: Value) -> str:
    return sprint(values)


def _println(*values: Value) -> str:
    return " ".join(written(value) for value in values) + "\n"


def _printf(form: Value, *values: Value) -> str:
    if not isinstance(form, str):
        raise ValueError(f"expected a string, got a {kind(form)}")
    return sprintf(form, values)


def _unreachable(*_: Value) -> Value:
    raise NotImplementedError  # the renderer has `and` and `or` itself: they read no more values than they need


BUILTINS: Functions = {
    "and": Callee(_unreachable, 1, more=True),
    "or": Callee(_unreachable, 1, more=True),
    "not": Callee(_not, 1),
    "eq": Callee(_eq, 1, more=True),
    "ne": Callee(_ne, 2),
    "lt": Callee(_lt, 2),
    "le": Callee(_le, 2),
    "gt": Callee(_gt, 2),
    "ge": Callee(_ge, 2),
    "len": Callee(_len, 1),
    "index": Callee(_index, 1, more=True),
    "slice": Callee(_slice, 1, more=True),
    "print": Callee(_print, 0, more=True),
    "printf": Callee(_printf, 1, more=True),
    "println": Callee(_println, 0, more=True),
}
"""Go's own."""


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
    """The type of a tool's property in TypeScript's words; of anything else it is `any`."""
    if not isinstance(value, Struct):
        return "any"
    alternatives, types = value.fields.get("AnyOf"), value.fields.get("Type")
    if isinstance(alternatives, list) and alternatives:
        return " | ".join(typescript(each) for each in alternatives)
    names = types if isinstance(types, list) and types else ["any"]
    return " | ".join(_TYPESCRIPT.get(str(name), "any") for name in names)


def ollamas(today: date) -> Functions:
    """Ollama's own; `today` is the day of `currentDate`, whose arguments mean nothing."""

    def current(*_: Value) -> str:
        return today.isoformat()

    def yesterday(*_: Value) -> str:
        return (today - timedelta(days=1)).isoformat()

    return {
        "json": Callee(to_json, 1),
        "currentDate": Callee(current, 0, more=True),
        "yesterdayDate": Callee(yesterday, 0, more=True),
        "toTypeScriptType": Callee(typescript, 1),
    }
