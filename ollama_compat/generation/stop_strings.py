"""Stop strings that the client applies: more of them than vLLM accepts, or stops that must not cut the thinking.

Text arrives and leaves in pieces. The end of a piece that may begin a stop string is held back until it is certain. The
result does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text through until the first stop string, which is never part of the answer."""

    def __init__(self, stops: Sequence[str]) -> None:
        """An empty stop string ends the answer at its first token, as in Ollama."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is certain to be part of the answer."""
        if self.stopped or not text:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            _, at = min(found)  # the first one that is complete, so that the result does not depend on the pieces
            return text[:at]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back when the text ended."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, marker: str) -> int:
    """The length of the longest suffix of `text` that begins `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
