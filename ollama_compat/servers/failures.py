"""What each failure of a call allows, in one table.

A call is never repeated after the caller has received a part of the answer. Before that, it may be repeated if the
request itself cannot be the cause of the failure. The caller of a plain call receives nothing until the answer is
whole, so a plain call may be repeated until its end.
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

QUIET = f"the server has answered no call for {QUIET_S:g} s"


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table."""

    kind: str
    meaning: str
    retry: bool = False
    """Whether the call may retry the same server, after a wait."""
    other_server: bool = False
    """Whether the call may try another server of the model, and then a fallback."""
    fallback: bool = False
    """Whether the call may try a fallback for the model, but no other server."""
    counts: bool = False
    """Whether the circuit breaker of the server counts it."""


UNREACHABLE = Failure(
    "unreachable", "no connection: refused, no reply, unknown host", retry=True, other_server=True, counts=True
)
CIRCUIT_OPEN = Failure("circuit_open", "the circuit of the server is open", other_server=True)
EXHAUSTED = Failure("exhausted", "the process has no file or memory left for a connection")
RESET = Failure(
    "reset",
    "the connection ended before the caller received a part of the answer",
    retry=True,
    other_server=True,
    counts=True,
)
BUSY = Failure("busy", "429: the server is overloaded", retry=True, other_server=True)
UNAVAILABLE = Failure(
    "unavailable", "502, 503: loading, or stopped behind a proxy", retry=True, other_server=True, counts=True
)
SERVER_ERROR = Failure("server_error", "500, 504, or any other 5xx", other_server=True, counts=True)
MALFORMED = Failure("malformed", "a reply that does not follow the protocol", other_server=True, counts=True)
TIMEOUT = Failure("timeout", f"no answer within the caller's timeout; counted if {QUIET}", counts=True)
CUT_OFF = Failure("cut_off", "any failure after the caller received a part of the answer", counts=True)
GONE = Failure("gone", "404: the server no longer serves the model", other_server=True)
NOT_FOUND = Failure("not_found", "no server serves the model", fallback=True)
UNAUTHORIZED = Failure("unauthorized", "401, 402, 403: a key is wrong or has no credit")
LIMITED = Failure("limited", "the client's own limits: the call was not admitted in time")
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
    """The row of an exception. `delivered`: whether the caller has received a part of the answer."""
    failure = _row(error)
    repeatable = failure.retry or failure.other_server or failure.fallback
    return CUT_OFF if delivered and (repeatable or failure.counts) else failure


def is_timeout(error: BaseException) -> bool:
    """Whether the failure is a timeout. The caller chooses the timeout, so it says little about the server."""
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
            return OTHER  # the limit of connections is the client's own
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
