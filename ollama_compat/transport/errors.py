"""What httpx raises, as callers of the official client know it, with the server's name in it."""

from __future__ import annotations

import errno
import os

import httpx

from ..exceptions import ServerUnreachable
from ..mapping.errors import connections_exhausted, incomplete_reply, response_error, server_timeout, unreachable
from ..settings import OLLAMA
from ..steps import Request

CONNECT_TIMEOUT_S = 10.0
"""How long connecting to a server may take where the client's own timeout does not say (seconds)."""


def translate_error(error: Exception, client: httpx.Client | httpx.AsyncClient, last: Request) -> Exception:
    """An error of `client` at its request `last` as callers know it. One that is not of the transport is as it was."""
    if last.timeout is not None and isinstance(error, httpx.TimeoutException):
        return late(client, last, not isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)), last.timeout)
    if isinstance(error, httpx.ConnectTimeout) and client.timeout.connect is None:
        return _unreached(client, last, f"no answer within {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, httpx.ConnectError) and (shortage := _shortage(error)):
        return connections_exhausted(_who(client, last), shortage)
    if isinstance(error, httpx.ConnectError):
        return _unreached(client, last, str(error) or "no connection")
    if isinstance(error, httpx.TimeoutException):
        kind = type(error)
        return kind(f"{last.base} did not answer in time ({kind.__name__}, timeout {client.timeout})", request=None)
    if isinstance(error, httpx.LocalProtocolError):  # its text may quote a key
        what = "has something in it that HTTP can't carry; please check headers= and the keys for line ends"
        return response_error(f"the request to {last.base or client.base_url} was not sent: it {what}", 400)
    if isinstance(error, httpx.RequestError):
        return incomplete_reply(last.base, f"{type(error).__name__}: {error}")
    return error


_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def _shortage(error: BaseException) -> str | None:
    """What this process has not enough of to connect, in the system's words; None: it is not that."""
    found: list[BaseException | None] = [error]
    for cause in found:  # it grows; one that was raised twice may be its own cause
        if isinstance(cause, OSError) and cause.errno in _SHORT:
            return os.strerror(cause.errno)
        below = cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
        inner = None if cause is None else cause.__cause__ or cause.__context__
        found += [each for each in (*below, inner) if each not in found]
    return None


def late(client: httpx.Client | httpx.AsyncClient, last: Request, connected: bool, seconds: float) -> ServerUnreachable:
    """The time of a request is up that has one of its own."""
    if connected:
        return server_timeout(_who(client, last), seconds, last.model)
    error = _unreached(client, last, f"no connection within {round(seconds, 2):g} s")
    error.waited_s = seconds
    return error


def _unreached(client: httpx.Client | httpx.AsyncClient, last: Request, reason: str) -> ServerUnreachable:
    if last.credential == "vllm":
        return unreachable(last.base, last.model, reason)
    return ServerUnreachable(f"Failed to connect to {_who(client, last)}: {reason}", reason)


def _who(client: httpx.Client | httpx.AsyncClient, last: Request) -> str:
    if last.credential == "vllm":
        return f"the vLLM server at {last.base}"
    return f"Ollama at {client.base_url}" if last.credential == OLLAMA else f"{last.credential} at {last.base}"
