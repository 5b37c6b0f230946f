"""Represents Go's values in Python, and formats them like `fmt.Print` (%v), `printf` and `json.Marshal` (Go 1.26).

Strings, bools and ints are Python's, `float64` is `float`, `nil` is None, a map is a dict with string keys. A `Struct`
has fixed fields. `Slice` and `Map` are a list and a dict that may be nil and may have their own `String` method.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TypeAlias

Value: TypeAlias = object


class Struct:
    """A Go struct. Reading an unknown field is an error."""

    __slots__ = ("_json_fields", "_prints_json", "fields", "name")

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Value],
        json_fields: Mapping[str, Value] | None = None,
        *,
        prints_json: bool = False,
    ) -> None:
        """`name` is the Go type. `json_fields` is its JSON, in this order (None: `fields`). `prints_json`: whether its
        `String` method returns its JSON.
        """
        self.name = name
        self.fields = fields
        self._json_fields = fields if json_fields is None else json_fields
        self._prints_json = prints_json

    def json_value(self) -> Value:
        """The value to encode as JSON: a tuple of pairs, which keeps their order."""
        return tuple(self._json_fields.items())

    def string(self) -> str | None:
        """The result of its `String` method. None: it has none."""
        return to_json(self) if self._prints_json else None


class Slice(list[Value]):
    """A Go slice. It may be nil, and its `String` method may return its JSON (`prints_json`)."""

    def __init__(self, items: Iterable[Value] = (), *, nil: bool = False, prints_json: bool = False) -> None:
        """A nil slice has no `items`, and is `null` in JSON."""
        super().__init__(items)
        self.nil = nil
        self.prints_json = prints_json

    def json_value(self) -> Value:
        """The value to encode as JSON."""
        return None if self.nil else list(self)

    def string(self) -> str | None:
        """The result of its `String` method. None: it has none."""
        return to_json(self) if self.prints_json else None


class Map(dict[str, Value]):
    """A Go map whose `String` method returns its JSON. A nil map is `{}` for `String`, and `null` in JSON."""

    def __init__(self, items: Mapping[str, Value] | None) -> None:
        """`items`: None for a nil map."""
        super().__init__(items or {})
        self.nil = items is None

    def json_value(self) -> Value:
        """The value to encode as JSON."""
        return None if self.nil else dict(self)

    def string(self) -> str:
        """The result of its `String` method."""
        return "{}" if self.nil else to_json(self)


def kind(value: Value) -> str:
    """The name of a value's Go type, for comparisons and error texts."""
    match value:
        case None:
            return "nil"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case dict():
            return "map"
        case list():
            return "slice"
        case Struct():
            return value.name
    raise TypeError(f"not a template value: {value!r}")


def is_nil(value: Value) -> bool:
    """Whether the value is nil in Go."""
    return value is None or (isinstance(value, (Slice, Map)) and value.nil)


def truth(value: Value) -> bool:
    """Whether the value is true for `if`: not zero, not empty, not nil. A struct is always true."""
    return bool(value) if not isinstance(value, Struct) else True


def formatted(value: Value) -> str:
    """The value as `%v` formats it."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return _float(value, _PLAIN, digits=2)
    if isinstance(value, (Struct, Slice, Map)) and (string := value.string()) is not None:
        return string
    match value:
        case Struct():
            return "{" + " ".join(formatted(field) for field in value.fields.values()) + "}"
        case dict():
            return "map[" + " ".join(f"{key}:{formatted(value[key])}" for key in sorted(value)) + "]"
        case list():
            return "[" + " ".join(formatted(item) for item in value) + "]"
    raise TypeError(f"not a template value: {value!r}")


_PLAIN, _PLAIN_JSON = range(-4, 6), range(-6, 21)  # the exponents of numbers that are formatted without an exponent


def _float(value: float, plain: range, digits: int) -> str:
    """The shortest decimal of `value`. An exponent outside `plain` is written, with at least `digits` digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    exact = Decimal(repr(value)).normalize()
    exponent = exact.adjusted() if value else 0
    if exponent in plain:
        return format(exact, "f")
    mantissa = format(exact.scaleb(-exponent), "f")
    return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):0{digits}d}"


# Go's encoder escapes the characters of HTML, and two line ends that are invalid in JavaScript strings.
_HTML = re.compile("[<>&\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def to_json(value: Value) -> str:
    """The value as `json.Marshal` encodes it: no spaces, maps in key order. Raises `ValueError` for NaN or infinity."""
    return "".join(_json(value))


def _json(value: Value) -> Iterator[str]:
    if isinstance(value, (Struct, Slice, Map)):
        value = value.json_value()
    match value:
        case None | bool() | int():
            yield json.dumps(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"json: unsupported value: {_float(value, _PLAIN, 2)}")
            yield _float(value, _PLAIN_JSON, digits=1)
        case str():
            text = json.dumps(_SURROGATES.sub("\ufffd", value), ensure_ascii=False)
            yield _HTML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        case list():
            yield from _enclosed("[", (_json(item) for item in value), "]")
        case dict() | tuple():
            pairs = sorted(value.items()) if isinstance(value, dict) else value
            yield from _enclosed("{", (_pair(key, item) for key, item in pairs), "}")
        case _:
            raise TypeError(f"not a template value: {value!r}")


def _enclosed(opening: str, parts: Iterable[Iterator[str]], closing: str) -> Iterator[str]:
    yield opening
    for i, part in enumerate(parts):
        if i:
            yield ","
        yield from part
    yield closing


def _pair(key: str, value: Value) -> Iterator[str]:
    yield from _json(key)
    yield ":"
    yield from _json(value)


def sprint(values: Iterable[Value]) -> str:
    """`print`: adds a space between two values if neither is a string."""
    text = ""
    previous: Value = ""
    for value in values:
        text += "" if isinstance(previous, str) or isinstance(value, str) else " "
        text += formatted(value)
        previous = value
    return text


_VERB = re.compile(r"%(?:[sdvqt%]|.?)", re.DOTALL)


def sprintf(template: str, values: Iterable[Value]) -> str:
    """`printf` with the verbs %s, %d, %v, %q, %t. Raises `ValueError` for another verb or a mismatched value."""
    remaining = list(values)

    def filled(found: re.Match[str]) -> str:
        verb = found[0]
        if verb == "%%":
            return "%"
        if verb not in _FITS:
            raise ValueError(f"the verb {verb!r} is not supported")
        if not remaining:
            raise ValueError(f"no value for {verb} in {template!r}")
        value = remaining.pop(0)
        if not _fits(value, verb):
            raise ValueError(f"{verb} of a {kind(value)}")
        return _quoted(value) if verb == "%q" and isinstance(value, str) else formatted(value)

    text = _VERB.sub(filled, template)
    if remaining:
        raise ValueError(f"more values than verbs in {template!r}")
    return text


_FITS: Mapping[str, tuple[type, ...]] = {"%s": (str,), "%q": (str,), "%d": (int,), "%t": (bool,), "%v": (object,)}


def _fits(value: Value, verb: str) -> bool:
    if verb == "%s" and isinstance(value, (Struct, Slice, Map)):
        return value.string() is not None
    return isinstance(value, _FITS[verb]) and not (verb == "%d" and isinstance(value, bool))


_LETTERS = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_LETTERS |= {"\\": "\\\\", '"': '\\"'}


def _quoted(text: str) -> str:
    return '"' + "".join(_LETTERS.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text) + '"'


def _escaped(code: int) -> str:
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
