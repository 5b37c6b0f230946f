"""Stop strings, cut off on this side: for more of them than vLLM takes, and for those that may only cut the answer.

Text comes in pieces and goes out in pieces; what could be the beginning of a stop string is held back until it is
clear. The same text gives the same cut however it is split.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text on until the first stop string, which is never part of the answer."""

    def __init__(self, stops: Sequence[str]) -> None:
        """An empty stop string ends the answer at its first token, as in Ollama."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What of `text`, and of what was held back before it, can be passed on."""
        if self.stopped or not text:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            _, at = min(found)  # the one that is whole first, so that it does not matter how the text was split
            return text[:at]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, marker: str) -> int:
    """The length of the longest end of `text` that begins `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
