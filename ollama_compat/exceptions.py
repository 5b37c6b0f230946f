"""The exceptions that this package adds to those of `ollama`.

A handler that is written for the official client also catches these: each is a subclass of what the official client
raises in the same situation (`ConnectionError` and `httpx.ConnectError`, or `ollama.ResponseError`).
"""

from __future__ import annotations

import httpx
from ollama import ResponseError


class ServerUnreachable(ConnectionError, httpx.ConnectError):
    """No connection to a vLLM server.

    The official client raises the builtin `ConnectionError` for a plain call and `httpx.ConnectError` for a stream:
    this is both, so whatever a service catches today goes on catching it.
    """

    waited_s: float | None = None
    """How long it was waited for (seconds), where its time was up."""

    def __init__(self, message: str, reason: str = "", *, request: httpx.Request | None = None) -> None:
        """`message` names the URL, the model and what to check; `reason` is what the system said."""
        httpx.ConnectError.__init__(self, message, request=request)
        self.reason = reason


class ServerTimeout(ServerUnreachable):
    """A server took the connection, and did not say in time what it was asked."""


class CircuitOpen(ServerUnreachable):
    """A server has failed so often in a row that it is left alone for a while."""


class ConnectionsExhausted(ServerUnreachable):
    """This process itself has nothing left to make a connection with: no server's fault."""


class ServerNotReady(ResponseError):
    """A server can't say what it serves yet."""

    retry_after: float | None = None
    """Seconds until it wants to be asked again, where it said so."""


class IncompleteReply(ResponseError):
    """The connection ended before the answer did."""


class MalformedReply(ResponseError):
    """A server sent what is not its protocol."""

    url = ""
    what = ""
    """What it did, without what to do about it."""


class RateLimited(ResponseError):
    """A call did not get its turn in time under the limits of VLLM_LIMITS or VLLM_MAX_CONCURRENT."""


class ModelGone(Exception):
    """A server answered that it does not serve the model it was learnt to serve. Never leaves the package."""
