"""The table of failures: the row of each exception, and what the row allows."""

from __future__ import annotations

import httpx
import pytest
from ollama import ResponseError

from ollama_compat.exceptions import ModelGone, ServerUnreachable
from ollama_compat.mapping.errors import (
    circuit_open,
    connections_exhausted,
    incomplete_reply,
    malformed_reply,
    rate_limited,
    redirected,
    server_not_ready,
    server_timeout,
    servers_unreachable,
    unreachable,
)
from ollama_compat.mapping.ollama_errors import response_error
from ollama_compat.servers import failures
from ollama_compat.servers.failures import FAILURES, Failure, classify, is_timeout

URL = "http://a:8001"

EXAMPLES = [
    # no connection
    (unreachable(URL, "smol", "refused"), "unreachable"),
    (servers_unreachable({URL: ""}, (), "smol"), "unreachable"),
    (ServerUnreachable("unreachable"), "unreachable"),
    (httpx.ConnectTimeout("slow"), "unreachable"),
    (server_timeout(URL, 5.0, "smol"), "unreachable"),
    (connections_exhausted(URL, "Too many open files"), "exhausted"),
    (circuit_open(URL, 5, "refused", 3.0), "circuit_open"),
    # no reply
    (incomplete_reply(URL, "RemoteProtocolError"), "reset"),
    (httpx.ReadTimeout("slow"), "timeout"),
    (httpx.WriteTimeout("slow"), "timeout"),
    (httpx.PoolTimeout("no connection is free"), "other"),
    # malformed reply
    (malformed_reply(URL, "an HTML page"), "malformed"),
    (redirected(URL, "https://other"), "malformed"),
    # no model
    (ModelGone("unloaded"), "gone"),
    (response_error("model 'smol' not found", 404), "not_found"),
    # no admission
    (rate_limited("chat", "600/minute", 1.0), "limited"),
    # no failure of a server
    (TypeError("wrong argument"), "other"),
    (RuntimeError("cannot schedule new futures"), "other"),
    (OSError("disk full"), "other"),
    # status codes
    *((response_error("no", status), "refused") for status in (400, 405, 409, 413, 415, 422, 451, 499)),
    *((response_error("no", status), "unauthorized") for status in (401, 402, 403)),
    (response_error("too many requests", 429), "busy"),
    *((response_error("loading", status), "unavailable") for status in (502, 503)),
    (server_not_ready(URL, 503, "loading", None), "unavailable"),
    (server_not_ready(URL, 429, "", 1.0), "busy"),
    *((response_error("boom", status), "server_error") for status in (500, 504, 505, 507, 520, 529, 599)),
    (response_error("no such endpoint", 501), "other"),
    (ResponseError("no status"), "server_error"),
    (response_error("not modified", 304), "server_error"),
]


def _name(example: object) -> str:
    status = getattr(example, "status_code", None)
    return example if isinstance(example, str) else f"{type(example).__name__}-{status}"


@pytest.mark.parametrize(("error", "kind"), EXAMPLES, ids=_name)
def test_classify_returns_kind_of_error(error: Exception, kind: str) -> None:
    assert classify(error, delivered=False).kind == kind


@pytest.mark.parametrize(
    ("kind", "retry", "other_server", "fallback", "counts"),
    [
        ("unreachable", True, True, False, True),
        ("circuit_open", False, True, False, False),
        ("exhausted", False, False, False, False),
        ("reset", True, True, False, True),
        ("busy", True, True, False, False),
        ("unavailable", True, True, False, True),
        ("server_error", False, True, False, True),
        ("malformed", False, True, False, True),
        ("timeout", False, False, False, True),
        ("cut_off", False, False, False, True),
        ("gone", False, True, False, False),
        ("not_found", False, False, True, False),
        ("unauthorized", False, False, False, False),
        ("limited", False, False, False, False),
        ("refused", False, False, False, False),
        ("other", False, False, False, False),
    ],
)
def test_kind_allows_retry_other_server_and_fallback(
    kind: str, retry: bool, other_server: bool, fallback: bool, counts: bool
) -> None:
    (row,) = [row for row in FAILURES if row.kind == kind]
    assert (row.retry, row.other_server, row.fallback, row.counts) == (retry, other_server, fallback, counts)


def test_table_lists_each_failure_once() -> None:
    rows = [value for value in vars(failures).values() if isinstance(value, Failure)]
    assert list(FAILURES) == rows
    assert len({row.kind for row in rows}) == len(rows) == 16
    assert all(row.meaning for row in rows)


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=_name)
def test_no_failure_allows_another_attempt_after_delivery(error: Exception) -> None:
    failure = classify(error, delivered=True)
    assert (failure.retry, failure.other_server, failure.fallback) == (False, False, False)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (incomplete_reply(URL, "reset"), "cut_off"),
        (malformed_reply(URL, "half an event"), "cut_off"),
        (response_error("boom", 500), "cut_off"),
        (httpx.ReadTimeout("slow"), "cut_off"),
        (unreachable(URL, None, "refused"), "cut_off"),
        (response_error("invalid prompt", 400), "refused"),
        (ValueError("raised by a callback"), "other"),
    ],
    ids=_name,
)
def test_server_failure_is_cut_off_after_delivery(error: Exception, kind: str) -> None:
    assert classify(error, delivered=True).kind == kind


@pytest.mark.parametrize(
    ("error", "timeout"),
    [
        (httpx.ReadTimeout("slow"), True),
        (httpx.ConnectTimeout("slow"), True),
        (server_timeout(URL, 5.0), True),
        (unreachable(URL, None, "refused"), False),
        (connections_exhausted(URL, "Too many open files"), False),
        (incomplete_reply(URL, "reset"), False),
    ],
    ids=_name,
)
def test_is_timeout_detects_timeouts_only(error: Exception, timeout: bool) -> None:
    assert is_timeout(error) is timeout


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=_name)
def test_program_exit_does_not_count_as_server_failure(error: BaseException) -> None:
    assert not classify(error, delivered=False).counts
