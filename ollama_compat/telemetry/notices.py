"""Notices: warnings that a client logs once for each subject, such as an option without an effect on vLLM."""

from __future__ import annotations

import threading
from collections import defaultdict

from .log import NOTICES, line, write

_MAX_SUBJECTS = 100  # for each event: subjects hold names that users and models make up, and memory is bounded


class Notices:
    """The notices of one client."""

    def __init__(self) -> None:
        """No notice has been logged."""
        self.logged: dict[str, set[str]] = defaultdict(set)
        """The subjects of the logged notices, by event."""
        self._lock = threading.RLock()

    def notice(self, event: str, subject: str, text: str, /, **facts: object) -> None:
        """Log a warning in the logger `ollama_compat`, once for each subject; `text` is a %-template of `facts`."""
        subject = line(subject)
        with self._lock:
            logged = self.logged[event]
            if subject in logged or len(logged) >= _MAX_SUBJECTS:
                return
            logged.add(subject)
        write(NOTICES, event, text, facts)
