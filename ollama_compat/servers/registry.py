"""The vLLM servers: what each serves, and which one takes a call.

What a server serves is learnt from its `GET /v1/models` once, and again when a name is unknown, when a server answers
that it does not have the model, and (at most every `RETRY_AFTER_S`) when it could not be reached before. Servers are
asked side by side, and who is silent is not waited for long once another has the model. Of calls that want to know it
at once, one asks and the others wait for what it hears. Of several servers with a model, the one with the fewest calls
in flight takes the next call; of equally busy ones the first, so that calls one after another find their prefix in one
server's cache. A server whose circuit breaker is open takes none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from ollama import ResponseError

from ..exceptions import CircuitOpen, ConnectionsExhausted, ServerTimeout, ServerUnreachable
from ..mapping.errors import circuit_open, no_vllm, nowhere, refusal, server_not_ready, server_timeout, unreachable
from ..mapping.model_names import same
from ..mapping.vllm_schema import ModelCard, ModelList, decode
from ..steps import LIST, Clock, Reply, Request, SendAll, Steps
from ..telemetry.log import log_decision
from .circuit_breaker import CircuitBreaker
from .failures import UNREACHABLE, classify, is_late
from .single_flight import SingleFlight

DISCOVERY_TIMEOUT_S = 5.0
"""How long a server may take to say what it serves (seconds); no longer than what is left of the caller's timeout."""
LEAST_TIMEOUT_S = 0.1
"""The same where hardly anything is left of it."""
GRACE_S = 0.5
"""How much longer the others may take once one has the model: a call must not wait long for who may be dark."""
WAITER_MARGIN_S = 0.25
"""How much longer a call waits for what another hears than it would wait itself."""
REDISCOVERY_S = 10.0
"""How soon a server that could not be reached is asked again (seconds)."""
_TOLD = 300  # characters of a failure that are kept


@dataclass
class Server:
    """One vLLM server. `cards` is None while it is not known what it serves."""

    url: str
    cards: tuple[ModelCard, ...] | None = None
    asked_at: int | None = None
    """When it was last asked what it serves, if anything came of that."""
    in_flight: int = 0
    trouble: Exception | None = None
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def card(self, name: str) -> ModelCard | None:
        """The served model that answers to `name`: the exact name first, then as Ollama compares names."""
        return _card(self.cards or (), name)

    def hurried(self, seconds: float) -> bool:
        """Whether it was silent for a call that had much less time than this one."""
        waited = self.trouble.waited_s if isinstance(self.trouble, ServerUnreachable) else None
        return waited is not None and waited < seconds / 2

    def names(self) -> list[str]:
        """The names of what it serves."""
        return [card.id for card in self.cards or ()]

    def succeeded(self, now: int) -> None:
        """It did its part of a call."""
        if self.breaker.succeeded(now):
            log_decision("circuit closed", "it answers again", server=self.url)

    def failed(self, now: int, error: Exception) -> None:
        """It failed a call, by its own fault."""
        why = str(error)[:_TOLD]
        opened = self.breaker.late(now, why) if is_late(error) else self.breaker.failed(now, why)
        if opened:
            log_decision("circuit opened", why, server=self.url, failures=self.breaker.failures)

    def left_alone(self, now: int) -> CircuitOpen:
        """What a caller is told while it takes no calls."""
        breaker = self.breaker
        return circuit_open(self.url, breaker.failures, breaker.last, breaker.seconds_left(now))


@dataclass(frozen=True)
class Target:
    """A server, and the model on it that takes a call."""

    server: Server
    card: ModelCard

    @property
    def url(self) -> str:
        """The server's base URL, without `/v1`."""
        return self.server.url


@dataclass
class ServerRegistry:
    """All servers of a client."""

    urls: tuple[str, ...]
    clock: Clock
    servers: list[Server] = field(init=False)
    learning: SingleFlight = field(default_factory=SingleFlight, repr=False, compare=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        """One `Server` for each URL, in the order given."""
        self.servers = [Server(url) for url in self.urls]

    def find(
        self, name: str, avoid: Sequence[Server] = (), since: int | None = None, left_s: float | None = None
    ) -> Steps[Target | None]:
        """The server that takes the next call of served model `name`, or None when no server has it.

        `avoid` holds servers that have just failed this call; the caller knows why. `since` is when the call began:
        what a server has told from then on it is not asked again. `left_s` is what is left of the caller's timeout.
        Otherwise raises `ServerUnreachable` when no server in reach has the model while others are out of reach,
        `CircuitOpen` when those that have it are left alone, and a server's own refusal (a missing key).
        """
        now = self.clock.ticks()
        since = now if since is None else since
        seconds = _seconds(left_s)
        able = [server for server in self.servers if server not in avoid and self._allowed(server)]
        found = self._pick(name, able)
        # One that is being asked is not waited for where another has the model.
        due = [] if found and self.learning.busy else [server for server in able if self._due(server)]
        if due:
            yield from self._learn(due, None, name, seconds if found is None else min(seconds, GRACE_S))
        target = self._pick(name, able)
        if target is None:
            left = _seconds(seconds - (self.clock.ticks() - now) / 1e9)
            yield from self._learn(self._unsure(name, able, due, left), since, name, left)
            target = self._pick(name, able)
        if target is None and not avoid:
            self._raise_open(name)
            self.raise_trouble(name)
        return target

    def catalog(self, left_s: float | None = None) -> Steps[list[Target]]:
        """Every served model, asked afresh; a model on several servers comes once. `left_s` is the caller's timeout."""
        yield from self._learn(self.servers, self.clock.ticks(), None, _seconds(left_s))
        if all(server.trouble for server in self.servers):
            self.raise_trouble("")
        found: dict[str, Target] = {}
        for server in self.servers:
            for card in server.cards or ():
                found.setdefault(card.id, Target(server, card))
        return list(found.values())

    def forget(self, server: Server) -> None:
        """What `server` serves is no longer known: it said so itself, or it is gone."""
        server.cards = None
        server.asked_at = None

    @contextmanager
    def taking(self, server: Server) -> Iterator[None]:
        """Count a call as in flight on `server`."""
        with self._lock:
            server.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                server.in_flight -= 1

    def _due(self, server: Server) -> bool:
        if server.cards is not None:
            return False
        if server.asked_at is None:
            return True
        return self.clock.ticks() - server.asked_at > REDISCOVERY_S * 1e9

    def _allowed(self, server: Server) -> bool:
        return server.breaker.closed or server.breaker.allows(self.clock.ticks())

    def _pick(self, name: str, servers: Sequence[Server]) -> Target | None:
        able = [(server, card) for server in servers if (card := server.card(name)) and self._allowed(server)]
        if not able:
            return None
        server, card = min(able, key=lambda pair: pair[0].in_flight)
        return Target(server, card)

    def _raise_open(self, name: str) -> None:
        for server in self.servers:
            # One that has the model was not picked because it was left alone, though it may no longer be.
            if server.card(name) or (server.cards is None and not self._allowed(server)):
                raise server.left_alone(self.clock.ticks())

    def _unsure(self, name: str, able: Sequence[Server], due: Sequence[Server], seconds: float) -> list[Server]:
        """Those of `able` that may have the model by now, though nothing is known of it."""
        known = any(server.card(name) for server in self.servers)
        # One that was due was asked just now, unless a call in another thread has forgotten again what it said, or had
        # much less time to wait for it.
        unknown = [
            server
            for server in able
            if server.cards is None and (server not in due or server.trouble is None or server.hurried(seconds))
        ]
        return unknown if known else [server for server in able if server.cards is not None or server in unknown]

    def _learn(self, servers: Sequence[Server], since: int | None, name: str | None, seconds: float) -> Steps[None]:
        """Ask what they serve, or wait for what another call hears; `name` is of interest, None: all are.

        What was asked `since` then will do; None, and where nothing is known of a server: what was not heard before.
        """
        news = [(server, _news(server, since)) for server in servers]

        def unheard() -> list[Server]:
            return [server for server, needed in news if needed()]

        work = self._asked(unheard, name, seconds)
        yield from self.learning.shared(lambda: bool(unheard()), work, seconds + WAITER_MARGIN_S)

    def _asked(self, unheard: Callable[[], list[Server]], name: str | None, seconds: float) -> Steps[None]:
        servers, now = unheard(), self.clock.ticks()
        on_trial = [server for server in servers if not server.breaker.closed and server.breaker.admit(now)]
        requests = tuple(Request("GET", server.url, LIST, timeout=seconds) for server in servers)
        try:
            told: list[Reply | Exception] = yield SendAll(requests, seconds, partial(_tells_of, name), GRACE_S)
            for server, outcome in zip(servers, told, strict=True):
                self._heard(server, outcome)
                server.asked_at = now
        finally:
            for server in on_trial:  # it is the call itself that closes the circuit
                server.breaker.left()

    def _heard(self, server: Server, told: Reply | Exception) -> None:
        """Keep what a server has said of itself, or that it has not."""
        try:
            if isinstance(told, Exception):
                raise told
            cards = _cards(server.url, told)
            if server.cards is None:  # it is new, or back; later a list says nothing of how calls do
                server.breaker.heard(self.clock.ticks())
            server.cards, server.trouble = cards, None
        except (ServerUnreachable, ResponseError) as problem:
            failure = classify(problem, delivered=False)
            server.trouble = problem
            if failure is UNREACHABLE and not isinstance(problem, ServerTimeout):
                server.cards = None  # any other may well serve what it did
            if failure.counts:
                server.failed(self.clock.ticks(), problem)

    def raise_trouble(self, name: str) -> None:
        """Say why a model was not found, unless every server could be asked: then it is nowhere."""
        troubles = {server.url: server.trouble for server in self.servers if server.trouble is not None}
        if not troubles:
            return
        first, *more = troubles.values()
        for trouble in (first, *more):
            if isinstance(trouble, ConnectionsExhausted):
                raise trouble
        if len(self.servers) == 1 and isinstance(first, ServerTimeout):
            raise server_timeout(f"the vLLM server at {self.urls[0]}", first.waited_s or 0.0, name or None)
        if len(self.servers) == 1 and isinstance(first, ServerUnreachable):
            raise unreachable(self.urls[0], name or None, first.reason)
        for trouble in (first, *more):
            if isinstance(trouble, ResponseError):
                raise trouble
        reached = tuple(server.url for server in self.servers if server.trouble is None)
        away = {url: trouble.reason if isinstance(trouble, ServerTimeout) else "" for url, trouble in troubles.items()}
        raise nowhere(away, reached, name)


def _news(server: Server, since: int | None) -> Callable[[], bool]:
    """Whether a server has not been asked since then; see `Fleet._learn`."""
    after = since or 0
    if since is None or server.cards is None or server.trouble is not None:
        after = max(after, 0 if server.asked_at is None else server.asked_at + 1)
    return lambda: server.asked_at is None or server.asked_at < after


def _cards(url: str, reply: Reply) -> tuple[ModelCard, ...]:
    if reply.ok:
        return tuple(decode(reply.body, ModelList, url).data)
    refused = refusal(url, reply.status, reply.body)
    if refused.status == 429 or refused.status >= 500:
        raise server_not_ready(url, refused.status, refused.message, reply.retry_after)
    raise refused.error() if refused.status in (401, 403) else no_vllm(url, refused.status, refused.message)


def _seconds(left: float | None) -> float:
    """How long a server may take to say what it serves, where the caller has so much left."""
    return DISCOVERY_TIMEOUT_S if left is None else min(DISCOVERY_TIMEOUT_S, max(LEAST_TIMEOUT_S, left))


def _card(cards: Sequence[ModelCard], name: str) -> ModelCard | None:
    exact = (card for card in cards if card.id == name)
    return next(exact, None) or next((card for card in cards if same(card.id, name)), None)


def _tells_of(name: str | None, reply: Reply) -> bool:
    """Whether a reply is that of a server that has a model."""
    try:
        return name is not None and _card(_cards("", reply), name) is not None
    except ResponseError:
        return False
