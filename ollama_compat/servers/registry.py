"""The vLLM servers: which models each serves, and which server takes a call.

Discovery requests `GET /v1/models` from a server once, and again when a name is unknown, when a server replies that it
does not have the model, and (at most every `REDISCOVERY_S` seconds) when the server was unreachable before. It sends
the requests side by side; once one server has the model, the others get only `GRACE_S` seconds more. Of concurrent
calls that need discovery, one runs it and the others wait for the result.

Of several servers with a model, the one with the fewest requests in flight takes the next call. Of equally busy
servers the first one does, so that consecutive calls find their prefix in one server's cache. A server whose circuit is
open takes no calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ollama import ResponseError

from ..exceptions import ConnectionsExhausted, ServerTimeout, ServerUnreachable
from ..mapping.errors import not_a_vllm_server, server_not_ready, server_timeout, servers_unreachable, unreachable
from ..mapping.refusals import refusal
from ..mapping.vllm_schema import ModelCard, ModelList, decode
from ..steps import MODELS_PATH, Clock, Reply, Request, SendAll, Steps
from .failures import UNREACHABLE, classify
from .server import Server, Target, find_model, model_index
from .single_flight import SingleFlight

DISCOVERY_TIMEOUT_S = 5.0
"""How long a server may take to return its list (seconds), within what is left of the caller's timeout."""
MIN_TIMEOUT_S = 0.1
"""The shortest such timeout (seconds)."""
GRACE_S = 0.5
"""How much longer the other servers may take once one has the model (seconds): they may be unreachable."""
WAITER_MARGIN_S = 0.25
"""Extra time that a waiting call gives a discovery that another call runs (seconds)."""
REDISCOVERY_S = 10.0
"""How soon discovery asks a server again that was unreachable (seconds)."""


@dataclass
class ServerRegistry:
    """All vLLM servers of a client."""

    urls: tuple[str, ...]
    clock: Clock
    servers: list[Server] = field(init=False)
    discovery: SingleFlight = field(default_factory=SingleFlight, repr=False, compare=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        """Make one `Server` for each URL, in the order given."""
        self.servers = [Server(url) for url in self.urls]

    def find(
        self, name: str, avoid: Sequence[Server] = (), since: int | None = None, left_s: float | None = None
    ) -> Steps[Target | None]:
        """The server that takes the next call of the served model `name`; None: no server serves it.

        `avoid` holds the servers that have failed this call. `since` is when the call began (ticks): a list that
        arrived later is not requested again. `left_s` is what is left of the caller's timeout (seconds).

        Raises `ServerUnreachable` if no reachable server has the model and others are unreachable, `CircuitOpen` if the
        circuits of those that have it are open, and a server's own refusal (a missing key).
        """
        now = self.clock.ticks()
        found = self._least_busy(name, avoid, now)
        if found is not None and not self._undiscovered(avoid):
            return found
        seconds = _discovery_timeout(left_s)
        candidates = [server for server in self.servers if server not in avoid and server.breaker.allows(now)]
        due = [server for server in candidates if server.models is None and self._due(server, now)]
        if due and not (found and self.discovery.busy):  # another server has the model: no need to wait
            yield from self._discover(due, None, name, seconds if found is None else min(seconds, GRACE_S))
        else:
            due = []
        found = self._least_busy(name, avoid, self.clock.ticks())
        if found is None:
            left = _discovery_timeout(seconds - (self.clock.ticks() - now) / 1e9)
            unsure = self._unsure(name, candidates, due, left)
            yield from self._discover(unsure, now if since is None else since, name, left)
            found = self._least_busy(name, avoid, self.clock.ticks())
        if found is None and not avoid:
            self._raise_circuit_open(name)
            self.raise_last_error(name)
        return found

    def catalog(self, left_s: float | None = None) -> Steps[list[Target]]:
        """Every served model, from new lists; a model on several servers occurs once.

        `left_s` is the caller's timeout (seconds). Raises an error of the servers if none of them returned its list.
        """
        yield from self._discover(self.servers, self.clock.ticks(), None, _discovery_timeout(left_s))
        if all(server.last_error for server in self.servers):
            self.raise_last_error("")
        found: dict[str, Target] = {}
        for server in self.servers:
            for card in server.models or ():
                found.setdefault(card.id, Target(server, card))
        return list(found.values())

    def forget(self, server: Server) -> None:
        """Drop the list of a server: the server replied that it changed, or the server is gone."""
        server.models = None
        server.listed_at = None

    def begin_request(self, server: Server) -> bool:
        """Count a call as in flight on `server`. Returns False if the server's circuit does not admit it."""
        if not (server.breaker.closed or server.breaker.admit(self.clock.ticks())):
            return False
        with self._lock:
            server.in_flight += 1
        return True

    def end_request(self, server: Server, *, succeeded: bool = False) -> None:
        """Count the end of a call on `server`. `succeeded`: the server answered it."""
        with self._lock:
            server.in_flight -= 1
        breaker = server.breaker
        if not (breaker.closed and not breaker.failures):
            if succeeded:
                server.record_success(self.clock.ticks())
            breaker.release_probe()
        elif succeeded:
            breaker.answered_at = self.clock.ticks()

    def raise_last_error(self, name: str) -> None:
        """Raise the reason why no server with the model was found; return if every server returned its list."""
        errors = {server.url: server.last_error for server in self.servers if server.last_error is not None}
        if not errors:
            return
        first, *others = errors.values()
        for error in (first, *others):
            if isinstance(error, ConnectionsExhausted):
                raise error
        if len(self.servers) == 1 and isinstance(first, ServerTimeout):
            raise server_timeout(f"the vLLM server at {self.urls[0]}", first.waited_s or 0.0, name or None)
        if len(self.servers) == 1 and isinstance(first, ServerUnreachable):
            raise unreachable(self.urls[0], name or None, first.reason)
        for error in (first, *others):
            if isinstance(error, ResponseError):
                raise error
        reachable = tuple(server.url for server in self.servers if server.last_error is None)
        missing = {url: error.reason if isinstance(error, ServerTimeout) else "" for url, error in errors.items()}
        raise servers_unreachable(missing, reachable, name)

    def _due(self, server: Server, now: int) -> bool:
        """Whether it is time to request the list of a server whose list is not known."""
        return server.listed_at is None or now - server.listed_at > REDISCOVERY_S * 1e9

    def _least_busy(self, name: str, avoid: Sequence[Server], now: int) -> Target | None:
        """The least busy server that serves the model and admits calls, except for those in `avoid`."""
        best: Target | None = None
        for server in self.servers:
            if server.models is None or server in avoid:
                continue
            if best is not None and server.in_flight >= best.server.in_flight:
                continue
            card = model_index(server.models).get(name) or server.model(name)
            if card is not None and (server.breaker.closed or server.breaker.allows(now)):
                best = Target(server, card)
        return best

    def _undiscovered(self, avoid: Sequence[Server]) -> bool:
        """Whether the list of a server that may take the call is not known."""
        return any(server.models is None and server not in avoid for server in self.servers)

    def _raise_circuit_open(self, name: str) -> None:
        now = self.clock.ticks()
        for server in self.servers:
            # A server that has the model was not picked because its circuit was open, which may have changed since.
            if server.model(name) or (server.models is None and not server.breaker.allows(now)):
                raise server.circuit_open_error(now)

    def _unsure(
        self, name: str, candidates: Sequence[Server], just_requested: Sequence[Server], seconds: float
    ) -> list[Server]:
        """The candidates that may serve the model by now although their list does not say so."""
        known = any(server.model(name) for server in self.servers)
        # The list that was just requested is missing only if a call in another thread dropped it again, or if that
        # call had much less time to wait for it.
        unknown = [
            server
            for server in candidates
            if server.models is None
            and (server not in just_requested or server.last_error is None or server.had_less_time(seconds))
        ]
        return unknown if known else [server for server in candidates if server.models is not None or server in unknown]

    def _discover(self, servers: Sequence[Server], since: int | None, name: str | None, seconds: float) -> Steps[None]:
        """Request the lists of `servers`, or wait for another call's discovery; `name`: the wanted model, None: all.

        A list that was requested after `since` is new enough. None: any list is, and of a server without one, any
        request that began later than the last.
        """
        if not servers:
            return
        missing = [(server, _needed_since(server, since)) for server in servers]

        def outdated() -> list[Server]:
            return [server for server, needed in missing if server.listed_at is None or server.listed_at < needed]

        work = self._request_lists(outdated, name, seconds)
        yield from self.discovery.run(lambda: bool(outdated()), work, seconds + WAITER_MARGIN_S)

    def _request_lists(self, outdated: Callable[[], list[Server]], name: str | None, seconds: float) -> Steps[None]:
        servers, now = outdated(), self.clock.ticks()
        probing = [server for server in servers if not server.breaker.closed and server.breaker.admit(now)]
        requests = tuple(Request("GET", server.url, MODELS_PATH, timeout=seconds) for server in servers)
        try:
            replies: list[Reply | Exception] = yield SendAll(requests, seconds, partial(_lists_model, name), GRACE_S)
            for server, reply in zip(servers, replies, strict=True):
                self._record_list(server, reply)
                server.listed_at = now
        finally:
            for server in probing:  # only the call itself closes the circuit
                server.breaker.release_probe()

    def _record_list(self, server: Server, reply: Reply | Exception) -> None:
        """Keep the list that a server returned, or why it returned none."""
        try:
            if isinstance(reply, Exception):
                raise reply
            models = _model_list(server.url, reply)
            if server.models is None:  # new, or back; a later list says nothing about how calls do
                server.breaker.record_reply(self.clock.ticks())
            server.models, server.last_error = models, None
        except (ServerUnreachable, ResponseError) as error:
            failure = classify(error, delivered=False)
            server.last_error = error
            if failure is UNREACHABLE and not isinstance(error, ServerTimeout):
                server.models = None  # another server may serve its models now
            if failure.counts:
                server.record_failure(self.clock.ticks(), error)


def _needed_since(server: Server, since: int | None) -> int:
    """The time (ticks) after which a list of `server` is new enough; see `ServerRegistry._discover`."""
    if since is None or server.models is None or server.last_error is not None:
        return max(since or 0, 0 if server.listed_at is None else server.listed_at + 1)
    return since


def _model_list(url: str, reply: Reply) -> tuple[ModelCard, ...]:
    if reply.ok:
        return tuple(decode(reply.body, ModelList, url).data)
    refused = refusal(url, reply.status, reply.body)
    if refused.status == 429 or refused.status >= 500:
        raise server_not_ready(url, refused.status, refused.message, reply.retry_after)
    raise refused.error() if refused.status in (401, 403) else not_a_vllm_server(url, refused.status, refused.message)


def _discovery_timeout(left_s: float | None) -> float:
    """How long a server may take to return its list if the caller has `left_s` seconds left."""
    return DISCOVERY_TIMEOUT_S if left_s is None else min(DISCOVERY_TIMEOUT_S, max(MIN_TIMEOUT_S, left_s))


def _lists_model(name: str | None, reply: Reply) -> bool:
    """Whether a reply lists the model."""
    try:
        return name is not None and find_model(_model_list("", reply), name) is not None
    except ResponseError:
        return False
