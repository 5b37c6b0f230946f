"""The record of one call, and the interface of the observers that receive it.

The code that runs a call fills in its `CallRecord` and passes it to each observer twice: at the start and at the end of
the call. A record holds names, numbers and times. It holds no prompt, no answer and no credential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

ANSWERED = "answered"
"""The `CallRecord.outcome` of a call that ended without an error."""
CANCELLED = "cancelled"
"""The `CallRecord.error` of a call that its caller cancelled, or whose stream it did not read to the end."""


@dataclass(slots=True, eq=False)
class CallRecord:
    """What is known about one call. Times are ticks of a `Clock` (nanoseconds)."""

    operation: str
    """Ollama's name of the operation: chat, generate, embed, ..."""
    model: str
    """The model name that the caller sent."""
    started: int
    streamed: bool = False
    waiting: bool = False
    """Whether the call waits for admission: for its rate, or for a concurrency slot."""
    first_token: int | None = None
    answered_by: str | None = None
    """The URL of the server that took the call, or the name of a backend that has no URL."""
    provider: str = "vllm"
    """The kind of that server: vllm, ollama or the name of a provider."""
    served: str | None = None
    """The model name that was sent to that server."""
    retries: int = 0
    """Number of further rounds over the same servers."""
    failovers: int = 0
    """Number of changes to another server, model or provider."""
    tokens_in: int = 0
    tokens_out: int = 0
    ended: int | None = None
    error: str | None = None
    """The kind of failure (servers/failures.py), or `CANCELLED`. None: no error."""

    @property
    def outcome(self) -> str:
        """`ANSWERED`, or `error`."""
        return ANSWERED if self.error is None else self.error

    @property
    def was_answered(self) -> bool:
        """Whether the model produced an answer, or at least the first token of one."""
        return self.error is None or self.first_token is not None

    @property
    def seconds(self) -> float:
        """Seconds from the start to the end, including all waits. 0 while the call runs."""
        return 0.0 if self.ended is None else (self.ended - self.started) / 1e9

    @property
    def seconds_to_first_token(self) -> float | None:
        """Seconds from the start to the first token. None if there was no first token."""
        return None if self.first_token is None else (self.first_token - self.started) / 1e9


class Observer(Protocol):
    """Receives the record of each call, in the thread that runs the call. Its methods are fast and never raise."""

    def started(self, record: CallRecord, /) -> None:
        """Handle the start of a call."""
        ...

    def ended(self, record: CallRecord, /) -> None:
        """Handle the end of a call: `record.ended` and `record.error` are set."""
        ...

    def after_fork(self) -> Observer:
        """Return the observer that the child process uses after a fork."""
        ...
