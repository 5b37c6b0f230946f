"""Constructors of this package's exceptions: one function for each situation, with the text of its message."""

from __future__ import annotations

from collections.abc import Mapping

from ollama import ResponseError

from ..exceptions import (
    CircuitOpen,
    ConnectionsExhausted,
    IncompleteReply,
    MalformedReply,
    RateLimited,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
)
from .ollama_errors import error_of, response_error
from .text import printable, shortened


def unreachable(url: str, model: str | None, reason: str) -> ServerUnreachable:
    """There is no connection to the vLLM server at `url`. `model` is the model of the call, if it names one."""
    return ServerUnreachable(
        f"Failed to connect to the vLLM server at {url}{_for_model(model)}: {reason}. Please check that it is running, "
        f"that it has finished loading (GET {url}/health), and that VLLM_URLS names it.",
        reason,
    )


def server_timeout(server: str, seconds: float, model: str | None = None) -> ServerTimeout:
    """A server accepted the connection but did not reply within `seconds`. `server` describes it, with its URL."""
    reason = f"accepted the connection but did not answer within {round(seconds, 2):g} s"
    requested = f" (model {model!r})" if model else ""
    error = ServerTimeout(
        f"{server[:1].upper()}{server[1:]} {reason}{requested}. Please check its log: it may be overloaded or hung.",
        reason,
    )
    error.waited_s = seconds
    return error


def connections_exhausted(server: str, reason: str) -> ConnectionsExhausted:
    """This process cannot connect to `server`. `reason` is the operating system's text: "Too many open files"."""
    return ConnectionsExhausted(
        f"This process cannot open a connection to {server}: {reason}. Please check its limits (ulimit -n) and the "
        "number of its concurrent calls (VLLM_MAX_CONCURRENT).",
        reason,
    )


def servers_unreachable(away: Mapping[str, str], reached: tuple[str, ...], model: str) -> ServerUnreachable:
    """No reachable server serves `model`, and an unreachable server may serve it.

    `away`: the URL of each unreachable server -> what it did ("": no connection). `reached`: the URLs of the others.
    """
    servers = ", ".join(f"{url} (it {problem})" if problem else url for url, problem in away.items())
    others = f" The reachable servers do not serve it ({', '.join(reached)})." if reached else ""
    return ServerUnreachable(
        f"Failed to connect to the vLLM servers {servers}{_for_model(model)}.{others} Please check that they are "
        f"running, that they have finished loading (GET {next(iter(away))}/health), and that VLLM_URLS names them."
    )


def _for_model(model: str | None) -> str:
    return f" for model {model!r}" if model else ""


def circuit_open(url: str, failures: int, last: str, seconds: float) -> CircuitOpen:
    """The circuit breaker of the server at `url` is open for `seconds` more. `last` is the last failure."""
    return CircuitOpen(
        f"The server at {url} has failed {failures} times in a row. Its circuit breaker sends it no request for "
        f"another {seconds:.0f} s. Last failure: {last}",
        last,
    )


def incomplete_reply(url: str, reason: str) -> IncompleteReply:
    """The connection ended before the reply was complete.

    The text begins like Ollama's when its model process exits.
    """
    return error_of(
        IncompleteReply,
        f"an error was encountered while running the model: unexpected EOF (incomplete reply from {url}: {reason})",
    )


def malformed_reply(url: str, problem: str) -> MalformedReply:
    """A reply does not follow OpenAI's protocol. `problem` completes "url sent a malformed reply: ..."."""
    return _malformed(url, f"sent a malformed reply: {printable(problem)}.", "Please check that it is a vLLM server.")


def redirected(url: str, location: str) -> MalformedReply:
    """A server redirects to `location`.

    The client does not follow redirects: it sends the prompt and the key only to servers that the user configured.
    """
    return _malformed(
        url, f"redirects to {shortened(location)}:", "put the new URL into VLLM_URLS if you trust it.", 502
    )


def with_advice(error: MalformedReply, instead: str, url: str | None = None) -> MalformedReply:
    """`error` with other advice, for a server that is not in VLLM_URLS: Ollama or a provider.

    `instead` is the advice. `url` replaces the URL of the error.
    """
    return _malformed(url or error.url, error.what, instead, error.status_code)


def _malformed(url: str, problem: str, advice: str, status: int = -1) -> MalformedReply:
    error = error_of(MalformedReply, f"{url} {problem} {advice}", status)
    error.url, error.what = url, problem
    return error


def rate_limited(operation: str, why: str, waited_s: float) -> RateLimited:
    """A call was not admitted in time. `why` names the limit; `waited_s` is in seconds. Status 429, as in Ollama."""
    return error_of(RateLimited, f"too many requests: {operation} waited {waited_s:.2f} s for admission ({why})", 429)


def not_a_vllm_server(url: str, status: int, message: str) -> ResponseError:
    """The server at `url` does not list its models as an OpenAI server does. `message` is the text of its reply."""
    return response_error(
        f"{url} does not answer like a vLLM server: GET {url}/v1/models returned status {status} "
        f"({message or 'no body'}). Please check VLLM_URLS.",
        502,
    )


_NOT_READY = {429: "is overloaded", 503: "is still loading, or its proxy cannot reach it"}


def server_not_ready(url: str, status: int, message: str, retry_after: float | None) -> ServerNotReady:
    """A server cannot list its models yet. `message` is the text of its reply; `retry_after` is in seconds."""
    problem = _NOT_READY.get(status, "is unhealthy")
    error = error_of(
        ServerNotReady,
        f"{url} {problem}: GET {url}/v1/models returned status {status} ({message or 'no body'}). It is ready when GET "
        f"{url}/health returns status 200. Please check that VLLM_URLS names it.",
        status,
    )
    error.retry_after = retry_after
    return error
