"""The exceptions that this package adds to those of `ollama`.

A handler that is written for the official client also catches these. Each class is a subclass of the exception that
the official client raises in the same situation: `ConnectionError` and `httpx.ConnectError` if there is no connection,
`ollama.ResponseError` (with `error` and `status_code`) if a server replied with an error.
"""

from __future__ import annotations

import httpx
from ollama import ResponseError


class ServerUnreachable(ConnectionError, httpx.ConnectError):
    """No connection to a server: connection refused, unknown host, no route, or connect timeout.

    Raised after all retries and all fallbacks have failed. The caller checks the URL in the message, or calls again
    later.

    The official client raises the builtin `ConnectionError` for a plain call and `httpx.ConnectError` for a stream.
    This class is both, so `except ConnectionError` and `except httpx.ConnectError` both catch it.
    """

    reason: str
    """The cause, as the operating system or the HTTP library reports it. Empty if there is more than one cause."""
    waited_s: float | None = None
    """The time limit that was exceeded (seconds). None: the failure is not a timeout."""

    def __init__(self, message: str, reason: str = "", *, request: httpx.Request | None = None) -> None:
        """`message` names the URL, the model and what to check. `reason` is the cause alone."""
        httpx.ConnectError.__init__(self, message, request=request)
        self.reason = reason


class ServerTimeout(ServerUnreachable):
    """A server accepted the connection but did not reply to an internal request within its time limit.

    Raised when the client lists the models of a server. `waited_s` is the time limit in seconds. The caller checks the
    log of the server, or calls again later. `except ConnectionError` and `except httpx.ConnectError` catch it. A call
    that exceeds the caller's own `timeout` raises `httpx.ReadTimeout`, as in the official client.
    """


class CircuitOpen(ServerUnreachable):
    """The circuit breaker of a server is open after consecutive failures, so no request was sent.

    Raised if no other server and no fallback can answer the call. The caller calls again later: the message says in how
    many seconds the circuit breaker lets a request through. `reason` is the last failure of the server.
    `except ConnectionError` and `except httpx.ConnectError` catch it.
    """


class ConnectionsExhausted(ServerUnreachable):
    """This process cannot open a connection because it has no free file descriptor or memory.

    It says nothing about the server, so no other server is tried. The caller raises the limits of the process
    (`ulimit -n`) or lowers the number of concurrent calls (`VLLM_MAX_CONCURRENT`). `reason` is the error text of the
    operating system. `except ConnectionError` and `except httpx.ConnectError` catch it.
    """


class ServerNotReady(ResponseError):
    """A server cannot list its models yet: status 429, or 5xx while it loads or is overloaded.

    Raised if no other server and no fallback can answer the call. `status_code` is the status of the reply. The caller
    calls again after `retry_after` seconds, or later. `except ollama.ResponseError` catches it.
    """

    retry_after: float | None = None
    """The Retry-After value of the reply (seconds). None: the reply has none."""


class IncompleteReply(ResponseError):
    """The connection ended before the reply was complete.

    A plain call raises it after its retries; a stream raises it where it breaks off. The caller calls again, and
    discards the parts that it has received. `status_code` is -1. `except ollama.ResponseError` catches it.
    """


class MalformedReply(ResponseError):
    """A reply does not follow the protocol: it is not JSON, has fields of a wrong type, is too long, or redirects.

    The caller checks whether the URL in the message belongs to the intended server. `status_code` is 502 for a redirect
    and -1 otherwise. `except ollama.ResponseError` catches it.
    """

    url = ""
    """The URL of the server, or its name."""
    what = ""
    """What is wrong with the reply, without the advice that the message ends with."""


class RateLimited(ResponseError):
    """A call was not admitted in time under `VLLM_LIMITS`, a `VLLM_*_RATE` or `VLLM_MAX_CONCURRENT`.

    No request was sent. The caller calls again later, raises its `timeout`, or raises the limit. `status_code` is 429.
    `except ollama.ResponseError` catches it.
    """


class ModelGone(Exception):
    """Internal: a server replied that it no longer serves a model that it listed. It never reaches a caller."""
