"""One call through all that stands around it: its turn, the routes to an answer, retries, and what is told of it.

An exchange around exchanges: it does no I/O, and adds nothing between the parts of an answer. What a failure allows is
the table of failures.py; nothing is ever asked again once the caller has some of its answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .call import Call, Memory, Progress
from .exceptions import ModelGone, ServerNotReady
from .limits.admission import Admission
from .mapping.errors import model_not_found
from .servers.backends import VLLM, Backend, Backends, Operation
from .servers.failures import EXHAUSTED, GONE, OTHER, UNAUTHORIZED, UNREACHABLE, Failure, classify
from .servers.registry import Server, ServerRegistry, Target
from .servers.retry import RetrySchedule
from .settings import OLLAMA, Settings
from .steps import Clock, Sleep, Steps
from .telemetry.log import log_decision
from .telemetry.observers import ContextObserver, accompanied
from .telemetry.stats import CANCELLED, CallRecord, Observer

LONG_S = 1.0
"""A longer wait than this is not worth it while something else stands in (seconds)."""
_OPERATIONS = {"/api/embeddings": "embed"}  # limited and counted together with the newer call
_TOLD = 300  # characters of a failure that a log line has


@dataclass(frozen=True)
class Question:
    """A request of the Ollama API, and how it is answered."""

    path: str
    body: Mapping[str, Any]
    operation: Operation
    timeout_s: float | None
    """How long the caller waits for anything; None: for ever."""


@dataclass
class Attempt:
    """What one route has tried so far for one question."""

    route: Backend
    patience: RetrySchedule
    progress: Progress
    since: int
    """When the call's turn came (ticks)."""
    last: bool
    """Whether nothing else stands in after it."""
    failed: list[Server] = field(default_factory=list)
    """The servers that are not asked: they failed in this round, or in a way that asking again can't mend."""
    again: list[Server] = field(default_factory=list)
    """Those that may be asked again after a wait, by what each did last."""
    trouble: Exception | None = None
    """The first failure: what the caller is told if nobody answers."""
    mends: bool = False
    """Whether a wait may mend that no server was found."""


class Guard:
    """Watches over the calls of one client."""

    def __init__(
        self, settings: Settings, fleet: ServerRegistry, routes: Backends, memory: Memory, clock: Clock
    ) -> None:
        """All of these are the client's, shared by its calls."""
        self.observers: list[Observer] = []
        self._fleet = fleet
        self._routes = routes
        self._memory = memory
        self._clock = clock
        self._turns = Admission(settings, clock)

    def answered(self, question: Question) -> Steps[None]:
        """The answer, by whoever can give it."""
        running = CallRecord(
            operation=_OPERATIONS.get(question.path) or question.path.rpartition("/")[2],
            model=str(question.body.get("model", "")),
            started=self._clock.ticks(),
            streamed=bool(question.body.get("stream")),
        )
        progress = Progress()
        self._tell("started", running)
        try:
            answer = self._turns.taken(running, question.timeout_s, self._by_any(question, running, progress))
            for observer in self.observers:
                if isinstance(observer, ContextObserver):
                    answer = accompanied(answer, functools.partial(observer.call_context, running))
            yield from answer
        except GeneratorExit:  # closed or cancelled
            running.error = None if progress.done else CANCELLED
            raise
        except Exception as error:
            running.error = classify(error, delivered=progress.delivered).kind
            raise
        finally:
            running.waiting = False
            running.ended = self._clock.ticks()
            running.first_token = progress.first
            running.tokens_in, running.tokens_out = progress.tokens_in, progress.tokens_out
            self._tell("ended", running)

    def _tell(self, event: Literal["started", "ended"], running: CallRecord) -> None:
        for observer in self.observers:
            try:
                getattr(observer, event)(running)
            except Exception as problem:  # who watches must not break what is watched
                log_decision(
                    "observer failed", f"{type(problem).__name__}: {problem}", observer=type(observer).__name__
                )

    def _by_any(self, question: Question, running: CallRecord, progress: Progress) -> Steps[None]:
        """The routes, one after another."""
        routes = self._routes.of(question.path, running.model)
        first: Exception | None = None
        since = self._clock.ticks()
        for route, instead in zip(routes, [*routes[1:], None], strict=True):
            attempt = Attempt(route, RetrySchedule(question.timeout_s), progress, since, last=instead is None)
            try:
                yield from self._by(question, attempt, running)
            except Exception as error:
                if progress.delivered:  # the caller has seen a part of this one's answer
                    raise
                if first is not None:
                    first.add_note(f"{route.name} stood in and failed too: {error}")
                first = first or error
                if instead is None or not _stands_in(classify(error, delivered=False), route):
                    raise first from None
                running.failovers += 1
                log_decision("failover", told(error), model=running.model, of=route.name, to=instead.name)
            else:
                return

    def _by(self, question: Question, attempt: Attempt, running: CallRecord) -> Steps[None]:
        """One route: each of its servers, and after a wait each of them again."""
        while True:
            target = None
            try:
                target = yield from attempt.route.find(attempt.failed, attempt.since, self._left(question, attempt))
                if target is not None:
                    yield from self._on(target, question, attempt, running)
                    return
            except Exception as error:
                failure = self._note(error, attempt)
                attempt.mends = target is None and failure.again
            if target is not None:
                continue  # that one failed: the next
            seconds = self._wait(attempt, running)
            if seconds is None:
                raise self._hopeless(question, attempt)
            yield Sleep(seconds)
            attempt.failed = [server for server in attempt.failed if server not in attempt.again]

    def _left(self, question: Question, attempt: Attempt) -> float | None:
        """What is left of the caller's timeout, counted from its turn (seconds)."""
        if question.timeout_s is None:
            return None
        return question.timeout_s - (self._clock.ticks() - attempt.since) / 1e9

    def _on(self, target: Target, question: Question, attempt: Attempt, running: CallRecord) -> Steps[None]:
        """One server. Its breaker is told how it did."""
        attempt.progress.first = None  # of a server before this one
        server, progress = target.server, attempt.progress
        if attempt.failed:
            running.failovers += 1
            why = told(attempt.trouble)
            log_decision("failover", why, model=running.model, of=attempt.failed[-1].url, to=server.url)
        attempt.failed.append(server)  # to be asked once in a round
        if not server.breaker.closed and not server.breaker.admit(self._clock.ticks()):
            raise server.left_alone(self._clock.ticks())
        profile, clock = attempt.route.profile, self._clock
        call = Call(
            question.path,
            question.body,
            target,
            profile,
            clock,
            running.started,
            self._memory,
            progress,
            elsewhere=attempt.route.provider not in (VLLM, OLLAMA),
        )
        try:
            with self._fleet.taking(server):
                yield from attempt.route.operation(question.operation)(call)
            server.succeeded(clock.ticks())
        except Exception as error:
            self._judge(server, error, attempt)
            raise
        except GeneratorExit:
            if progress.first is not None:
                server.succeeded(clock.ticks())
            raise
        finally:
            server.breaker.left()
            provider = attempt.route.provider
            running.provider, running.served = provider, target.card.id
            running.answered_by = server.url if provider == VLLM else provider

    def _judge(self, server: Server, error: Exception, attempt: Attempt) -> None:
        failure = classify(error, delivered=attempt.progress.delivered)
        if failure.counts:
            server.failed(self._clock.ticks(), error)
        elif failure not in (EXHAUSTED, OTHER):
            server.succeeded(self._clock.ticks())
        if server in attempt.again:
            attempt.again.remove(server)
        if failure.again:
            attempt.again.append(server)
        if failure in (UNREACHABLE, GONE):  # what it serves is no longer known; gone: the model may have moved
            for gone in self._fleet.servers if failure is GONE else [server]:
                self._fleet.forget(gone)
                self._memory.forget(gone.url)

    def _note(self, error: Exception, attempt: Attempt) -> Failure:
        """Keep a failure that others may make good; any other is raised."""
        failure = classify(error, delivered=attempt.progress.delivered)
        if not failure.elsewhere:
            raise error
        attempt.trouble = attempt.trouble or error
        if isinstance(error, ServerNotReady):
            attempt.progress.retry_after = error.retry_after
        return failure

    def _wait(self, attempt: Attempt, running: CallRecord) -> float | None:
        """The seconds until the route's servers are asked again; None: they are not."""
        if not (attempt.again or attempt.mends):
            return None
        seconds = attempt.patience.wait(attempt.progress.retry_after, (self._clock.ticks() - running.started) / 1e9)
        if seconds is None or (seconds > LONG_S and not attempt.last) or not self._answers_in(seconds, attempt):
            return None
        running.retries += 1
        log_decision(
            "retry", told(attempt.trouble), model=running.model, route=attempt.route.name, seconds=round(seconds, 3)
        )
        attempt.progress.retry_after = None
        return seconds

    def _answers_in(self, seconds: float, attempt: Attempt) -> bool:
        """Whether a server may be asked again after so long: the call itself may have opened the last circuit."""
        then = self._clock.ticks() + int(seconds * 1e9)
        return attempt.mends or any(server.breaker.allows(then) for server in attempt.again)

    def _hopeless(self, question: Question, attempt: Attempt) -> Exception:
        if attempt.trouble is None or isinstance(attempt.trouble, ModelGone):
            self._fleet.raise_trouble(attempt.route.name)
            return model_not_found(question.path, str(question.body.get("model", "")))
        return attempt.trouble


def _stands_in(failure: Failure, route: Backend) -> bool:
    """Whether what stands in may be asked. A wrong key of vLLM's is a mistake of the settings, not to be hidden."""
    return failure.elsewhere or failure.stand_in or (failure is UNAUTHORIZED and route.provider != VLLM)


def told(error: Exception | None) -> str:
    """What a failure says, for the log."""
    return str(error)[:_TOLD]
