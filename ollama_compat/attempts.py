"""Which attempt of a call comes next: another server, a retry after a wait, a fallback, or none.

`Attempts` keeps the attempts at one backend, `FallbackChain` goes through the backends. servers/failures.py has the
table that says what each failure allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .call import ClientContext, Progress
from .exceptions import ModelGone, ServerNotReady
from .mapping.ollama_errors import model_not_found
from .servers.backends import VLLM, Backend
from .servers.failures import EXHAUSTED, GONE, OTHER, UNAUTHORIZED, UNREACHABLE, classify
from .servers.registry import ServerRegistry
from .servers.retry import RetrySchedule
from .servers.server import Server
from .telemetry.call_record import CallRecord
from .telemetry.log import log_decision

MAX_WAIT_BEFORE_FALLBACK_S = 1.0
"""The longest wait for a retry while a fallback is left (seconds)."""
_LONGEST_CAUSE = 300  # characters of a failure in a log line


@dataclass(slots=True)
class CallState:
    """The state of one call to one model."""

    path: str
    body: Mapping[str, Any]
    timeout_s: float | None
    """The caller's timeout (seconds); None: none."""
    record: CallRecord
    progress: Progress
    admitted: bool = False
    """Whether the call holds a concurrency slot."""
    admitted_at: int = 0
    """When the call was admitted, or began if nothing limits it (ticks)."""


@dataclass(slots=True)
class Attempts:
    """The attempts of one call at the servers of one backend."""

    backend: Backend
    state: CallState
    registry: ServerRegistry
    context: ClientContext
    is_last: bool
    """Whether no fallback is left after this backend."""
    tried: list[Server] = field(default_factory=list)
    """The servers that get no request: they failed in this round, or a retry cannot help them."""
    _schedule: RetrySchedule | None = None
    _retryable: list[Server] = field(default_factory=list)
    _discovery_retryable: bool = False
    _first_error: Exception | None = None

    def seconds_left(self) -> float | None:
        """What is left of the caller's timeout since the admission (seconds); None: no timeout."""
        if self.state.timeout_s is None:
            return None
        return self.state.timeout_s - (self.context.clock.ticks() - self.state.admitted_at) / 1e9

    def circuit_refused(self, server: Server) -> None:
        """Note that the server's circuit admits no call."""
        self._keep(server.circuit_open_error(self.context.clock.ticks()))

    def log_failover(self, server: Server) -> None:
        """Note that the call goes to another server after a failure."""
        record = self.state.record
        record.failovers += 1
        log_decision("failover", _cause(self._first_error), model=record.model, of=self.tried[-1].url, to=server.url)

    def continues_after(self, server: Server, error: Exception) -> bool:
        """Note that an attempt failed. Returns whether another server may answer the call."""
        failure, now = classify(error, delivered=self.state.progress.delivered), self.context.clock.ticks()
        if failure.counts:
            server.record_failure(now, error)
        elif failure not in (EXHAUSTED, OTHER):
            server.record_success(now)
        if server in self._retryable:
            self._retryable.remove(server)
        if failure.retry:
            self._retryable.append(server)
        if failure in (UNREACHABLE, GONE):  # its list is no longer valid; GONE: the model may be on any server now
            for changed in self.registry.servers if failure is GONE else [server]:
                self.registry.forget(changed)
                self.context.facts.forget(changed.url)
        if failure.other_server:
            self._keep(error)
        return failure.other_server

    def continues_without_server(self, error: Exception) -> bool:
        """Note that no server was found. Returns whether a retry or a fallback may help."""
        failure = classify(error, delivered=self.state.progress.delivered)
        if failure.other_server:
            self._keep(error)
            self._discovery_retryable = failure.retry
        return failure.other_server

    def next_wait(self) -> float | None:
        """The seconds until the servers get another round; None: they get none."""
        if not (self._retryable or self._discovery_retryable):
            return None
        record, progress = self.state.record, self.state.progress
        now = self.context.clock.ticks()
        self._schedule = self._schedule or RetrySchedule(self.state.timeout_s)
        seconds = self._schedule.next_wait(progress.retry_after, (now - record.started) / 1e9)
        if seconds is None or (seconds > MAX_WAIT_BEFORE_FALLBACK_S and not self.is_last):
            return None
        if not self._may_answer_at(now + int(seconds * 1e9)):
            return None
        record.retries += 1
        log_decision(
            "retry",
            _cause(self._first_error),
            model=record.model,
            backend=self.backend.name,
            seconds=round(seconds, 3),
        )
        progress.retry_after = None
        return seconds

    def start_round(self) -> None:
        """Let the servers that may be retried get a request again."""
        self.tried = [server for server in self.tried if server not in self._retryable]

    def final_error(self) -> Exception:
        """The exception if no server of the backend answered."""
        if self._first_error is None or isinstance(self._first_error, ModelGone):
            self.registry.raise_last_error(self.backend.name)
            return model_not_found(self.state.path, str(self.state.body.get("model", "")))
        return self._first_error

    def _keep(self, error: Exception) -> None:
        self._first_error = self._first_error or error
        self._discovery_retryable = False
        if isinstance(error, ServerNotReady):
            self.state.progress.retry_after = error.retry_after

    def _may_answer_at(self, then: int) -> bool:
        """Whether a server admits calls at that time: this call itself may have opened the last circuit."""
        return self._discovery_retryable or any(server.breaker.allows(then) for server in self._retryable)


@dataclass(slots=True)
class FallbackChain:
    """What happened at the backends of one call so far."""

    backends: tuple[Backend, ...]
    state: CallState
    _first_error: Exception | None = None

    def error_after(self, position: int, error: Exception) -> Exception | None:
        """Note that the backend at `position` failed. Returns the error for the caller; None: the next one may answer.

        The caller gets the error of the first backend, with a note for each fallback that failed.
        """
        if self.state.progress.delivered:  # the caller has received a part of this backend's answer
            return error
        backend = self.backends[position]
        if self._first_error is not None:
            self._first_error.add_note(f"The fallback {backend.name} failed too: {error}")
        first = self._first_error = self._first_error or error
        if backend is self.backends[-1] or not _may_fall_back(error, backend):
            return first
        record, fallback = self.state.record, self.backends[position + 1]
        record.failovers += 1
        log_decision("failover", _cause(error), model=record.model, of=backend.name, to=fallback.name)
        return None


def _may_fall_back(error: Exception, backend: Backend) -> bool:
    """Whether a fallback may answer. A wrong key for vLLM is an error of the settings, which no fallback must hide."""
    failure = classify(error, delivered=False)
    if failure is UNAUTHORIZED:
        return backend.provider != VLLM
    return failure.other_server or failure.fallback


def _cause(error: Exception | None) -> str:
    """The message of a failure, for the log."""
    return str(error)[:_LONGEST_CAUSE]
