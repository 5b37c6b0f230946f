"""Errors of httpx -> errors that callers of the official client handle. Each message names the server."""

from __future__ import annotations

import errno
import os

import httpx

from ..exceptions import ServerUnreachable
from ..mapping.errors import connections_exhausted, incomplete_reply, server_timeout, unreachable
from ..mapping.ollama_errors import response_error
from ..settings import OLLAMA
from ..steps import Request

CONNECT_TIMEOUT_S = 10.0
"""Time limit of a connection attempt if the client's own timeout sets none (seconds)."""


def translate_error(error: Exception, client: httpx.Client | httpx.AsyncClient, last: Request) -> Exception:
    """Return the error to raise for `error`, which `client` raised at its request `last`.

    An error that does not come from the transport is returned unchanged.
    """
    if last.timeout is not None and isinstance(error, httpx.TimeoutException):
        return timeout_error(
            client, last, not isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)), last.timeout
        )
    if isinstance(error, httpx.ConnectTimeout) and client.timeout.connect is None:
        return _unreachable(client, last, f"no answer within {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, httpx.ConnectError) and (shortage := _shortage(error)):
        return connections_exhausted(_server_name(client, last), shortage)
    if isinstance(error, httpx.ConnectError):
        return _unreachable(client, last, str(error) or "no connection")
    if isinstance(error, httpx.TimeoutException):
        kind = type(error)
        return kind(f"{last.base} did not answer in time ({kind.__name__}, timeout {client.timeout})", request=None)
    if isinstance(error, httpx.LocalProtocolError):  # its message may contain a key
        return response_error(
            f"the request to {last.base or client.base_url} was not sent, because it contains characters that HTTP "
            "cannot carry; please check headers= and the keys for line breaks",
            400,
        )
    if isinstance(error, httpx.RequestError):
        return incomplete_reply(last.base, f"{type(error).__name__}: {error}")
    return error


_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def _shortage(error: BaseException) -> str | None:
    """Return the system's message if this process lacks a resource for a connection; otherwise None."""
    found: list[BaseException | None] = [error]
    for cause in found:  # the loop extends the list; an error that was raised twice can be its own cause
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            return os.strerror(cause.errno)
        grouped = cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
        inner = None if cause is None else cause.__cause__ or cause.__context__
        found += [each for each in (*grouped, inner) if each not in found]
    return None


def timeout_error(
    client: httpx.Client | httpx.AsyncClient, last: Request, connected: bool, seconds: float
) -> ServerUnreachable:
    """Return the error of a request whose own time limit has passed.

    `connected`: whether the connection was established. `seconds`: how long the client waited.
    """
    if connected:
        return server_timeout(_server_name(client, last), seconds, last.model)
    error = _unreachable(client, last, f"no connection within {round(seconds, 2):g} s")
    error.waited_s = seconds
    return error


def _unreachable(client: httpx.Client | httpx.AsyncClient, last: Request, reason: str) -> ServerUnreachable:
    if last.credential == "vllm":
        return unreachable(last.base, last.model, reason)
    return ServerUnreachable(f"Failed to connect to {_server_name(client, last)}: {reason}", reason)


def _server_name(client: httpx.Client | httpx.AsyncClient, last: Request) -> str:
    if last.credential == "vllm":
        return f"the vLLM server at {last.base}"
    return f"Ollama at {client.base_url}" if last.credential == OLLAMA else f"{last.credential} at {last.base}"
