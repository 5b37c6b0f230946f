"""What each failure of a call allows, in one table.

Nothing is repeated once the caller has some of the answer, and may have acted on it. Before that, a question may be
asked again where the failure says that it can't be the question's own fault: who wants a whole reply has none of it
until its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from ollama import ResponseError

from ..exceptions import (
    CircuitOpen,
    ConnectionsExhausted,
    IncompleteReply,
    MalformedReply,
    ModelGone,
    RateLimited,
    ServerUnreachable,
)
from .circuit_breaker import QUIET_S

QUIET = f"the server has answered nobody for {QUIET_S:g} s"


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table."""

    kind: str
    meaning: str
    again: bool = False
    """Whether the same server may be asked again, after a wait."""
    elsewhere: bool = False
    """Whether another server of the model may be asked, and then what stands in for the model."""
    stand_in: bool = False
    """Whether only what stands in for the model may be asked."""
    counts: bool = False
    """Whether the server's circuit breaker counts it."""


UNREACHABLE = Failure("unreachable", "no connection: refused, dark, unknown host", True, True, counts=True)
CIRCUIT_OPEN = Failure("circuit_open", "the circuit breaker leaves the server alone", elsewhere=True)
EXHAUSTED = Failure("exhausted", "this process has no file or memory left for a connection")
RESET = Failure("reset", "the connection ended before any of the answer was delivered", True, True, counts=True)
BUSY = Failure("busy", "429: the server has too much to do", True, True)
UNAVAILABLE = Failure("unavailable", "502, 503: loading, or gone behind its proxy", True, True, counts=True)
SERVER_ERROR = Failure("server_error", "500, 504, or any other 5xx", elsewhere=True, counts=True)
MALFORMED = Failure("malformed", "a reply that is not the protocol's", elsewhere=True, counts=True)
TIMEOUT = Failure("timeout", f"no answer within the caller's timeout; counted where {QUIET}", counts=True)
CUT_OFF = Failure("cut_off", "any failure after some of the answer was delivered", counts=True)
GONE = Failure("gone", "404: the server no longer has the model", elsewhere=True)
NOT_FOUND = Failure("not_found", "no server has the model", stand_in=True)
UNAUTHORIZED = Failure("unauthorized", "401, 402, 403: a key is wrong or spent")
LIMITED = Failure("limited", "the client's own limits: the call did not get its turn")
REFUSED = Failure("refused", "any other 4xx: the request is wrong")
OTHER = Failure("other", "anything else")

FAILURES = (
    UNREACHABLE,
    CIRCUIT_OPEN,
    EXHAUSTED,
    RESET,
    BUSY,
    UNAVAILABLE,
    SERVER_ERROR,
    MALFORMED,
    TIMEOUT,
    CUT_OFF,
    GONE,
    NOT_FOUND,
    UNAUTHORIZED,
    LIMITED,
    REFUSED,
    OTHER,
)

_STATUS = {401: UNAUTHORIZED, 402: UNAUTHORIZED, 403: UNAUTHORIZED, 404: NOT_FOUND, 429: BUSY}
_STATUS |= {502: UNAVAILABLE, 503: UNAVAILABLE}


def classify(error: BaseException, *, delivered: bool) -> Failure:
    """The row of an exception; `delivered`: whether the caller has some of the answer."""
    failure = _row(error)
    repeatable = failure.again or failure.elsewhere or failure.stand_in
    return CUT_OFF if delivered and (repeatable or failure.counts) else failure


def is_late(error: BaseException) -> bool:
    """Whether it is that a time was up: the caller's may be short, so it tells little of the server."""
    return isinstance(error, httpx.TimeoutException) or (
        isinstance(error, ServerUnreachable) and error.waited_s is not None
    )


def _row(error: BaseException) -> Failure:
    match error:
        case CircuitOpen():
            return CIRCUIT_OPEN
        case ConnectionsExhausted():
            return EXHAUSTED
        case ServerUnreachable() | httpx.ConnectTimeout():
            return UNREACHABLE
        case httpx.PoolTimeout():
            return OTHER  # the caller's own limit of connections
        case httpx.TimeoutException():
            return TIMEOUT
        case IncompleteReply():
            return RESET
        case MalformedReply():
            return MALFORMED
        case ModelGone():
            return GONE
        case RateLimited():
            return LIMITED
        case ResponseError():
            return _of_status(error.status_code)
        case _:
            return OTHER


def _of_status(status: int) -> Failure:
    if status >= 500:
        return OTHER if status == 501 else _STATUS.get(status, SERVER_ERROR)
    return _STATUS.get(status, REFUSED if status >= 400 else SERVER_ERROR)
