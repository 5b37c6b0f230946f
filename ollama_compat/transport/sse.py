r"""Splits a stream of bytes into events: server-sent events, and the lines of Ollama's own streams.

A line ends at `\n` (or `\r\n`) and nowhere else: U+2028, U+0085, \x0b and \x0c, at which `str.splitlines` also splits,
occur inside JSON strings.
"""

from __future__ import annotations

from ..mapping.errors import malformed_reply

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""The longest event that is kept in memory (bytes)."""


class LineDecoder:
    """The lines of a stream that arrives in pieces of any size. Each line of Ollama's streams is a JSON object."""

    def __init__(self, url: str) -> None:
        """`url` is the server in errors."""
        self._url = url
        self._open = bytearray()  # the incomplete line: a list of tiny pieces would take many times its size

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each line that `piece` completes."""
        *lines, rest = piece.split(b"\n")
        if not lines:
            self._keep(rest)
            return []
        if self._open:
            lines[0] = bytes(self._open + lines[0])
            self._open.clear()
        self._keep(rest)
        return [data for line in lines if (data := self._data(line)) is not None]

    def finish(self) -> list[bytes]:
        """The line that was incomplete when the stream ended: the last one may lack its line feed."""
        data = self._data(bytes(self._open))
        self._open.clear()
        return [] if data is None else [data]

    def _data(self, line: bytes) -> bytes | None:
        return line.strip() or None

    def _keep(self, rest: bytes) -> None:
        if rest:
            self._open += rest
            if len(self._open) > MAX_EVENT_BYTES:
                raise malformed_reply(self._url, f"a line of more than {MAX_EVENT_BYTES} bytes")


class EventDecoder(LineDecoder):
    """The `data` of server-sent events. Comments and other fields are skipped."""

    def _data(self, line: bytes) -> bytes | None:
        if not line.startswith(b"data:"):
            return None
        return line[5:].strip() or None
