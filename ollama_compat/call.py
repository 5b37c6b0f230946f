"""What an operation is handed: one call, the server that takes it, and what the client remembers."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ollama import ResponseError

from .mapping.errors import response_error
from .servers.registry import Target
from .settings import Profile
from .steps import Clock, JsonObject, Reply, Request, Send, Steps
from .telemetry.log import NOTICES, line, write

T = TypeVar("T")

_MOST_NOTICES = 100  # of one event: subjects hold names that users and models make up, which must not fill the memory


@dataclass
class Memory:
    """What a client learns on the way: which notices it has given, what it found out about models."""

    noticed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The subjects of the notices, by event."""
    facts: dict[tuple[str, str, str], object] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def forget(self, url: str) -> None:
        """What was learnt of a server is no longer sure: it may have been started anew."""
        for key in [key for key in self.facts if key[0] == url]:
            self.facts.pop(key, None)

    def notice(self, event: str, subject: str, text: str, /, **facts: object) -> None:
        """Warn in the `ollama_compat` log, once for each subject; `text` is a %-template of `facts` (guard/log.py)."""
        subject = line(subject)
        with self._lock:
            seen = self.noticed[event]
            if subject in seen or len(seen) >= _MOST_NOTICES:
                return
            seen.add(subject)
        write(NOTICES, event, text, facts)


@dataclass
class Progress:
    """How far a call has come, for those who watch over it."""

    first: int | None = None
    """When the first of the answer came (ticks)."""
    delivered: bool = False
    """Whether the caller has some of it. From then on nothing may be repeated."""
    retry_after: float | None = None
    """Seconds until the server that refused wants to be asked again, where it said so."""
    tokens_in: int = 0
    tokens_out: int = 0
    done: bool = False
    """Whether the last part is there: a caller who reads no further has given nothing up."""


@dataclass(frozen=True)
class Call:
    """One call of the Ollama API: `body` as the official client sends it to `path`."""

    path: str
    body: Mapping[str, Any]
    target: Target
    profile: Profile
    clock: Clock
    started: int
    memory: Memory
    progress: Progress = field(default_factory=Progress)
    elsewhere: bool = False
    """Whether a provider answers it, not vLLM."""

    @property
    def name(self) -> str:
        """The model as it was asked for; replies repeat it."""
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        """Whether the caller wants the parts as they come."""
        return bool(self.body.get("stream"))

    @property
    def served(self) -> str:
        """The name under which the server serves the model."""
        return self.target.card.id

    @property
    def window(self) -> int | None:
        """The model's window in tokens."""
        return self.target.card.max_model_len

    @property
    def url(self) -> str:
        """The server that takes the call."""
        return self.target.url

    def recall(self, subject: str, kind: type[T]) -> T | None:
        """What was found out about the served model, if it was."""
        known = self.memory.facts.get((self.url, self.served, subject))
        return known if isinstance(known, kind) else None

    def remember(self, subject: str, fact: object) -> None:
        """Keep what was found out about the served model, until its server is gone."""
        self.memory.facts[self.url, self.served, subject] = fact

    def request(self, path: str, payload: JsonObject, method: Literal["GET", "POST"] = "POST") -> Request:
        """A request to the server, for the served model."""
        return Request(method, self.url, path, {"model": self.served, **payload}, self.name)

    def ask(self, path: str, payload: JsonObject) -> Steps[Reply]:
        """POST for the served model and return the reply."""
        reply: Reply = yield Send(self.request(path, payload))
        self.progress.retry_after = reply.retry_after
        return reply

    def unsupported(self, operation: str) -> ResponseError:
        """Ollama's refusal of an operation that this kind of model does not have."""
        return response_error(f'"{self.name}" does not support {operation}', 400)
