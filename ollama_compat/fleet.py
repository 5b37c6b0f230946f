"""The vLLM servers: what each serves, and which one takes a call.

What a server serves is learnt from its `GET /v1/models` once, and again when a name is unknown, when a server answers
that it does not have the model, and (at most every `RETRY_AFTER_S`) when it could not be reached before. Of calls that
want to know it at once, one asks and the others wait for what it hears. Of several servers with a model, the one with
the fewest calls in flight takes the next call; of equally busy ones the first, so that calls one after another find
their prefix in one server's cache. A server whose circuit breaker is open takes none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from ollama import ResponseError

from .errors import CircuitOpen, ServerUnreachable, circuit_open, no_vllm, nowhere, refusal, unreachable
from .exchange import Clock, Exchange, Reply, ask
from .guard.breaker import Breaker
from .guard.flight import SingleFlight
from .guard.log import decided
from .models import same
from .wire import Card, Cards, decode

LEARN_TIMEOUT_S = 5.0
"""How long a server may take to say what it serves (seconds)."""
RELEARN_TIMEOUT_S = 1.0
"""The same while another server has the model: a call must not wait long for one that may be dark."""
RETRY_AFTER_S = 10.0
"""How soon a server that could not be reached is asked again (seconds)."""


@dataclass
class Server:
    """One vLLM server. `cards` is None while it is not known what it serves."""

    url: str
    cards: tuple[Card, ...] | None = None
    asked_at: int | None = None
    """When it was last asked what it serves, if anything came of that."""
    in_flight: int = 0
    trouble: Exception | None = None
    breaker: Breaker = field(default_factory=Breaker)
    learning: SingleFlight = field(default_factory=SingleFlight, repr=False, compare=False)

    def card(self, name: str) -> Card | None:
        """The served model that answers to `name`: the exact name first, then as Ollama compares names."""
        cards = self.cards or ()
        exact = (card for card in cards if card.id == name)
        return next(exact, None) or next((card for card in cards if same(card.id, name)), None)

    def names(self) -> list[str]:
        """The names of what it serves."""
        return [card.id for card in self.cards or ()]

    def succeeded(self) -> None:
        """It did its part of a call."""
        if self.breaker.succeeded():
            decided("circuit closed", "it answers again", server=self.url)

    def failed(self, now: int, why: str) -> None:
        """It failed a call, by its own fault."""
        if self.breaker.failed(now, why):
            decided("circuit opened", why, server=self.url, failures=self.breaker.failures)

    def left_alone(self, now: int) -> CircuitOpen:
        """What a caller is told while it takes no calls."""
        breaker = self.breaker
        return circuit_open(self.url, breaker.failures, breaker.last, breaker.seconds_left(now))


@dataclass(frozen=True)
class Target:
    """A server, and the model on it that takes a call."""

    server: Server
    card: Card

    @property
    def url(self) -> str:
        """The server's base URL, without `/v1`."""
        return self.server.url


@dataclass
class Fleet:
    """All servers of a client."""

    urls: tuple[str, ...]
    clock: Clock
    servers: list[Server] = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        """One `Server` for each URL, in the order given."""
        self.servers = [Server(url) for url in self.urls]

    def find(self, name: str, avoid: Sequence[Server] = (), since: int | None = None) -> Exchange[Target | None]:
        """The server that takes the next call of served model `name`, or None when no server has it.

        `avoid` holds servers that have just failed this call; the caller knows why. `since` is when the call began:
        what a server has told from then on it is not asked again. Otherwise raises `ServerUnreachable` when no server
        in reach has the model while others are out of reach, `CircuitOpen` when those that have it are left alone, and
        a server's own refusal (a missing key).
        """
        since = self.clock.ticks() if since is None else since
        able = [server for server in self.servers if server not in avoid and self._allowed(server)]
        found = self._pick(name, able)
        # One that is being asked is not waited for where another has the model.
        due = [server for server in able if self._due(server) and not (found and server.learning.busy)]
        yield from self._learn(due, None, LEARN_TIMEOUT_S if found is None else RELEARN_TIMEOUT_S)
        target = self._pick(name, able)
        if target is None:
            yield from self._learn(self._unsure(name, able, due), since)
            target = self._pick(name, able)
        if target is None and not avoid:
            self._raise_open(name)
            self.raise_trouble(name)
        return target

    def catalog(self) -> Exchange[list[Target]]:
        """Every served model, asked afresh; a model on several servers comes once."""
        yield from self._learn(self.servers, self.clock.ticks())
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
        return self.clock.ticks() - server.asked_at > RETRY_AFTER_S * 1e9

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

    def _unsure(self, name: str, able: Sequence[Server], due: Sequence[Server]) -> list[Server]:
        """Those of `able` that may have the model by now, though nothing is known of it."""
        known = any(server.card(name) for server in self.servers)
        # One that was due was asked just now, unless a call in another thread has forgotten again what it said.
        unknown = [server for server in able if server.cards is None and (server not in due or server.trouble is None)]
        return unknown if known else [server for server in able if server.cards is not None or server in unknown]

    def _learn(self, servers: Sequence[Server], since: int | None, timeout: float = LEARN_TIMEOUT_S) -> Exchange[None]:
        """Ask what they serve, or wait for what another call hears.

        What was asked `since` then will do; None, and where nothing is known of a server: what was not heard before.
        """
        news = [(server, _news(server, since)) for server in servers]
        for server, needed in news:
            yield from server.learning.shared(needed, self._asked(server, timeout), timeout)

    def _asked(self, server: Server, timeout: float) -> Exchange[None]:
        now = self.clock.ticks()
        on_trial = not server.breaker.closed and server.breaker.admit(now)
        try:
            reply = yield from ask("GET", server.url, "/v1/models", timeout=timeout)
            server.cards, server.trouble = _cards(server.url, reply), None
        except ServerUnreachable as problem:
            server.cards, server.trouble = None, problem
            server.failed(self.clock.ticks(), problem.reason)
        except (httpx.TimeoutException, ResponseError) as problem:
            server.trouble = problem  # too busy to say what it serves, it may well serve what it did
        finally:
            if on_trial:  # it is the call itself that closes the circuit
                server.breaker.left()
        server.asked_at = now

    def raise_trouble(self, name: str) -> None:
        """Say why a model was not found, unless every server could be asked: then it is nowhere."""
        troubles = [server.trouble for server in self.servers if server.trouble is not None]
        if not troubles:
            return
        if len(self.servers) == 1 and isinstance(troubles[0], ServerUnreachable):
            raise unreachable(self.urls[0], name or None, troubles[0].reason)
        refused = [trouble for trouble in troubles if isinstance(trouble, ResponseError)]
        if refused:
            raise refused[0]
        reached = tuple(server.url for server in self.servers if server.trouble is None)
        raise nowhere(tuple(server.url for server in self.servers if server.trouble is not None), reached, name)


def _news(server: Server, since: int | None) -> Callable[[], bool]:
    """Whether a server has not been asked since then; see `Fleet._learn`."""
    after = since or 0
    if since is None or server.cards is None:
        after = max(after, 0 if server.asked_at is None else server.asked_at + 1)
    return lambda: server.asked_at is None or server.asked_at < after


def _cards(url: str, reply: Reply) -> tuple[Card, ...]:
    if reply.ok:
        return tuple(decode(reply.body, Cards, url).data)
    refused = refusal(url, reply.status, reply.body)
    raise refused.error() if refused.status in (401, 403) else no_vllm(url, refused.status, refused.message)
