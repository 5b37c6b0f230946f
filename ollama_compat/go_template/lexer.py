"""Splits a Go template into tokens, and evaluates literals.

A token is a text between actions, a delimiter, or a word of an action. The lexer applies trim markers and removes
comments, as in Go (text/template/parse/lex.go); the parser receives neither.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from .nodes import TemplateError


@dataclass(frozen=True, slots=True)
class Token:
    """A token. `kind` is the name of a group of `_WORD`, a keyword, "text", "left", "right" or `END`."""

    kind: str
    text: str
    line: int
    spaced: bool = False
    """Whether white space precedes it."""


END = "end of the template"

_SPACE = " \t\r\n"
_KEYWORDS = frozenset(["block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"])
_LEFT = re.compile(rf"\{{\{{(-[{_SPACE}])?")
_RIGHT = re.compile(rf"(?:[{_SPACE}](-))?\}}\}}")
_BLANKS = re.compile(rf"[{_SPACE}]*")
_WORD = re.compile(
    r"""(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<comma>,)|(?P<open>\()|(?P<close>\))
    |(?P<string>"(?:\\[^\n]|[^"\\\n])*"|`[^`]*`)|(?P<char>'(?:\\[^\n]|[^'\\\n])*')
    |(?P<number>[+-]?\.?[0-9](?:[eEpP][+-]|[\w.])*)
    |(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)""",
    re.VERBOSE,
)
_NAMES = ("variable", "field", "dot", "word")
_UNCLOSED = {
    '"': "unterminated quoted string",
    "`": "unterminated raw quoted string",
    "'": "unterminated character constant",
}


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a template; the last one is `END`. Raises `TemplateError`."""
    return _Lexer(text).tokens()


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(newline.end() for newline in re.finditer("\n", text))]

    def tokens(self) -> Iterator[Token]:
        trim = False
        while True:
            left = _LEFT.search(self._text, self._at)
            start, end = self._at, left.start() if left else len(self._text)
            piece = self._text[start:end]
            if trim:
                piece = piece.lstrip(_SPACE)
                start = end - len(piece)
            piece = piece.rstrip(_SPACE) if left and left[1] else piece
            if piece:
                yield Token("text", piece, self._line(start))
            if left is None:
                yield Token(END, "", self._line(end))
                return
            self._at = left.end()
            if self._text.startswith("/*", self._at):
                trim = self._comment(left.start())
                continue
            yield Token("left", "{{", self._line(left.start()))
            trim = yield from self._action(left.start())

    def _action(self, start: int) -> Generator[Token, None, bool]:
        """Yield the words of an action. Returns whether the text after it is trimmed."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            after = blanks.end() if blanks else self._at
            spaced = after > self._at
            right = (_RIGHT.match(self._text, after - 1) if spaced else None) or _RIGHT.match(self._text, after)
            if right is not None:
                yield Token("right", "}}", self._line(right.start()), spaced)
                self._at = right.end()
                return right[1] is not None
            if after >= len(self._text):
                raise TemplateError(self._line(start), "unclosed action")
            found = _WORD.match(self._text, after)
            if found is None:
                character = self._text[after]
                problem = _UNCLOSED.get(character, f"unexpected {character!r} in an action")
                raise TemplateError(self._line(after), problem)
            yield self._word(found, spaced)
            self._at = found.end()

    def _word(self, found: re.Match[str], spaced: bool) -> Token:
        kind, word, end = str(found.lastgroup), found[0], found.end()
        if kind in _NAMES and not self._ends(end):
            raise TemplateError(self._line(end), f"bad character {self._text[end]!r} after {word!r}")
        kind = word if kind == "word" and word in _KEYWORDS else kind
        return Token(kind, word, self._line(found.start()), spaced)

    def _ends(self, at: int) -> bool:
        """Whether a name may end at this offset."""
        return at >= len(self._text) or self._text[at] in _SPACE + ".,|:()" or self._text.startswith("}}", at)

    def _comment(self, start: int) -> bool:
        """Skip a comment. Returns whether the text after it is trimmed."""
        end = self._text.find("*/", self._at + 2)
        if end < 0:
            raise TemplateError(self._line(start), "unclosed comment")
        right = _RIGHT.match(self._text, end + 2)
        if right is None:
            raise TemplateError(self._line(start), "comment ends before closing delimiter")
        self._at = right.end()
        return right[1] is not None

    def _line(self, at: int) -> int:
        return bisect_right(self._lines, at)


_ESCAPE = re.compile(
    r"""\\(?:(?P<letter>[abfnrtv\\"'])|x(?P<hex>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})
    |u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<invalid>.?))""",
    re.VERBOSE | re.DOTALL,
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unquoted(text: str) -> str:
    """The value of a raw or interpreted string literal. Raises `ValueError` for an invalid escape."""
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")  # Go removes carriage returns from raw strings
    return _unescaped(text[1:-1], "'")


def _unescaped(text: str, other_quote: str) -> str:
    def value(found: re.Match[str]) -> bytes:
        if found["letter"] and found["letter"] != other_quote:
            return _LETTERS.get(found["letter"], found["letter"]).encode()
        if found["hex"] or found["octal"]:
            return bytes([int(found["hex"], 16) if found["hex"] else int(found["octal"], 8)])
        if found["short"] or found["long"]:
            return chr(int(found["short"] or found["long"], 16)).encode()  # a surrogate is a ValueError, as in Go
        raise ValueError(found[0])

    result, at = b"", 0
    for found in _ESCAPE.finditer(text):
        result += text[at : found.start()].encode("utf-8", "replace") + value(found)
        at = found.end()
    return (result + text[at:].encode("utf-8", "replace")).decode("utf-8", "replace")


_INTEGER = re.compile(r"[+-]?(?:0[xX][\da-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|[1-9][\d_]*|0)", re.ASCII)
_FLOAT = re.compile(
    r"[+-]?(?:\d[\d_]*\.[\d_]*(?:[eE][+-]?\d+)?|\.\d[\d_]*(?:[eE][+-]?\d+)?|\d[\d_]*[eE][+-]?\d+)", re.ASCII
)


def number(text: str) -> int | float:
    """The value of a number or a character constant. Raises `ValueError` if it is invalid or does not fit 64 bits."""
    if text.startswith("'"):
        character = _unescaped(text[1:-1], '"')
        if len(character) != 1:
            raise ValueError(text)
        return ord(character)
    if _INTEGER.fullmatch(text):
        whole = _integer(text.replace("_", ""))
        if not -(2**63) <= whole < 2**63:
            raise ValueError(text)
        return whole
    if not _FLOAT.fullmatch(text) or not math.isfinite(value := float(text.replace("_", ""))):
        raise ValueError(text)
    return value


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    octal = digits.startswith("0") and digits.isdigit() and digits != "0"
    return int(text, 8) if octal else int(text, 0)
