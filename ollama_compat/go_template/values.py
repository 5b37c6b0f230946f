"""Go's values as Python's, and how Go writes them: `fmt.Print` (%v), `printf`, `json.Marshal` (1.26).

Strings, bools, ints and floats (Go's `float64`) are themselves, `nil` is None, maps are dicts with keys of strings. A
`Struct` has fixed fields; `Slice` and `Map` are lists and dicts that may be nil or have a `String` method of their own.
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
    """A Go struct: what is no field of it is an error."""

    __slots__ = ("_document", "_shown", "fields", "name")

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Value],
        document: Mapping[str, Value] | None = None,
        *,
        shown: bool = False,
    ) -> None:
        """`name`: its Go type. `document`: its JSON, in this order. `shown`: its `String` method gives its JSON."""
        self.name = name
        self.fields = fields
        self._document = fields if document is None else document
        self._shown = shown

    def document(self) -> Value:
        """What it is in JSON; a tuple of pairs keeps their order."""
        return tuple(self._document.items())

    def text(self) -> str | None:
        """What its `String` method gives; None: it has none."""
        return to_json(self) if self._shown else None


class Slice(list[Value]):
    """A Go slice that may be nil, or have a `String` method that gives its JSON (`shown`)."""

    def __init__(self, items: Iterable[Value] = (), *, nil: bool = False, shown: bool = False) -> None:
        """A nil slice is empty, and `null` in JSON."""
        super().__init__(items)
        self.nil = nil
        self.shown = shown

    def document(self) -> Value:
        """What it is in JSON."""
        return None if self.nil else list(self)

    def text(self) -> str | None:
        """What its `String` method gives; None: it has none."""
        return to_json(self) if self.shown else None


class Map(dict[str, Value]):
    """A Go map whose `String` method gives its JSON; `{}` also where it is nil, which in JSON is `null`."""

    def __init__(self, items: Mapping[str, Value] | None) -> None:
        """`items`: None for a nil map."""
        super().__init__(items or {})
        self.nil = items is None

    def document(self) -> Value:
        """What it is in JSON."""
        return None if self.nil else dict(self)

    def text(self) -> str:
        """What its `String` method gives."""
        return "{}" if self.nil else to_json(self)


def kind(value: Value) -> str:
    """The name of a value's kind, for comparisons and for errors."""
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
    raise TypeError(f"no value of a template: {value!r}")


def is_nil(value: Value) -> bool:
    """Whether Go has nil there."""
    return value is None or (isinstance(value, (Slice, Map)) and value.nil)


def truth(value: Value) -> bool:
    """Whether `if` takes it: what is not zero, empty or nil. A struct always is."""
    return bool(value) if not isinstance(value, Struct) else True


def written(value: Value) -> str:
    """The value as `%v` writes it."""
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
    if isinstance(value, (Struct, Slice, Map)) and (own := value.text()) is not None:
        return own
    match value:
        case Struct():
            return "{" + " ".join(written(field) for field in value.fields.values()) + "}"
        case dict():
            return "map[" + " ".join(f"{key}:{written(value[key])}" for key in sorted(value)) + "]"
        case list():
            return "[" + " ".join(written(item) for item in value) + "]"
    raise TypeError(f"no value of a template: {value!r}")


_PLAIN, _PLAIN_JSON = range(-4, 6), range(-6, 21)  # the exponents of numbers that are written without one


def _float(value: float, plain: range, digits: int) -> str:
    """The shortest decimal that is the number, with an exponent of `digits` digits or more unless it is in `plain`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    exact = Decimal(repr(value)).normalize()
    exponent = exact.adjusted() if value else 0
    if exponent in plain:
        return format(exact, "f")
    mantissa = format(exact.scaleb(-exponent), "f")
    return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):0{digits}d}"


# Go's encoder escapes what could be HTML, and the two line ends that JavaScript does not take in a string.
_HTML = re.compile("[<>&\u2028\u2029]")
_LONE = re.compile("[\ud800-\udfff]")


def to_json(value: Value) -> str:
    """The value as `json.Marshal` writes it: without spaces, maps in the order of their keys. Raises `ValueError`."""
    return "".join(_json(value))


def _json(value: Value) -> Iterator[str]:
    if isinstance(value, (Struct, Slice, Map)):
        value = value.document()
    match value:
        case None | bool() | int():
            yield json.dumps(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"json: unsupported value: {_float(value, _PLAIN, 2)}")
            yield _float(value, _PLAIN_JSON, digits=1)
        case str():
            text = json.dumps(_LONE.sub("\ufffd", value), ensure_ascii=False)
            yield _HTML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        case list():
            yield from _joined("[", (_json(item) for item in value), "]")
        case dict() | tuple():
            pairs = sorted(value.items()) if isinstance(value, dict) else value
            yield from _joined("{", (_pair(key, item) for key, item in pairs), "}")
        case _:
            raise TypeError(f"no value of a template: {value!r}")


def _joined(opening: str, parts: Iterable[Iterator[str]], closing: str) -> Iterator[str]:
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
    """`print`: a space between two values of which neither is a string."""
    text = ""
    before: Value = ""
    for value in values:
        between = "" if isinstance(before, str) or isinstance(value, str) else " "
        text += between + written(value)
        before = value
    return text


_VERB = re.compile(r"%(?:[sdvqt%]|.?)", re.DOTALL)


def sprintf(form: str, values: Iterable[Value]) -> str:
    """`printf` with the verbs %s, %d, %v, %q and %t. Raises `ValueError` for others, and where values don't fit."""
    left = list(values)

    def filled(found: re.Match[str]) -> str:
        verb = found[0]
        if verb == "%%":
            return "%"
        if verb not in _FITS:
            raise ValueError(f"{verb!r} is not understood")
        if not left:
            raise ValueError(f"no value for {verb} in {form!r}")
        value = left.pop(0)
        if not _fits(value, verb):
            raise ValueError(f"{verb} of a {kind(value)}")
        return _quoted(value) if verb == "%q" and isinstance(value, str) else written(value)

    text = _VERB.sub(filled, form)
    if left:
        raise ValueError(f"more values than verbs in {form!r}")
    return text


_FITS: Mapping[str, tuple[type, ...]] = {"%s": (str,), "%q": (str,), "%d": (int,), "%t": (bool,), "%v": (object,)}


def _fits(value: Value, verb: str) -> bool:
    if verb == "%s" and isinstance(value, (Struct, Slice, Map)):
        return value.text() is not None
    return isinstance(value, _FITS[verb]) and not (verb == "%d" and isinstance(value, bool))


_LETTERS = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_LETTERS |= {"\\": "\\\\", '"': '\\"'}


def _quoted(text: str) -> str:
    return '"' + "".join(_LETTERS.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text) + '"'


def _escaped(code: int) -> str:
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
