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

    prefix = b""
    """What a line begins with; other lines are skipped."""

    def __init__(self, url: str) -> None:
        """`url` is the server in errors."""
        self._url = url
        self._open = bytearray()  # the incomplete line: a list of tiny pieces would take many times its size

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each line that `piece` completes. Raises `MalformedReply` if a line is too long."""
        lines = piece.split(b"\n")
        rest = lines.pop()
        if lines and self._open:
            lines[0] = bytes(self._open + lines[0])
            self._open.clear()
        if rest:
            self._open += rest
            if len(self._open) > MAX_EVENT_BYTES:
                raise malformed_reply(self._url, f"a line of more than {MAX_EVENT_BYTES} bytes")
        found = []
        prefix, start = self.prefix, len(self.prefix)
        for line in lines:
            if line.startswith(prefix) and (data := line[start:].strip()):
                found.append(data)
        return found

    def finish(self) -> list[bytes]:
        """The line that was incomplete when the stream ended: the last one may lack its line feed."""
        return self.feed(b"\n") if self._open else []


class EventDecoder(LineDecoder):
    """The `data` of server-sent events. Comments and other fields are skipped."""

    prefix = b"data:"
