"""Validation of storage URLs and rates. The errors do not contain passwords."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import pytest

from ollama_compat.limits.rates import AsyncRates, SyncRates, check
from ollama_compat.limits.storage_url import redact_url

RATES = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "a-secret-password"


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://cache",
        "redis://u:p@cache:6379/2",
        "rediss://cache:6380/0",
        "redis+unix:///run/redis.sock",
        "redis+sentinel://a:26379,b:26379/main",
        "redis+cluster://a:7000,b:7000",
    ],
)
def test_valid_url_is_accepted_without_connecting(url: str) -> None:
    check(url, RATES)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "''"),
        ("memory", "'memory'"),
        ("memory://here", "'memory://here'"),
        ("http://cache", "'http://cache'"),
        ("memcached://cache:11211", "'memcached://cache:11211'"),
        ("redis://", "'redis://'"),
        ("redis://cache:99999", "Port out of range"),
        ("redis://cache?no_such_option=1", "no_such_option"),
        ("redis+sentinel://cache:26379", "service_name"),
        ("redis+cluster://cache", "each node of a cluster must be host:port"),
    ],
)
def test_invalid_url_is_rejected_with_the_allowed_urls(url: str, message: str) -> None:
    with pytest.raises(ValueError, match="memory://, redis://host:port/db") as caught:
        check(url, RATES)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "rate", ["", "often", "600", "600/fortnight", "-1/minute", "0.5/second", "0/minute", "5/minute;"]
)
def test_invalid_rate_is_rejected_with_the_allowed_rates(rate: str) -> None:
    with pytest.raises(ValueError, match="600/minute") as caught:
        check("memory://", {"chat": rate})
    assert f"the rate of chat is {rate!r}" in str(caught.value)


def test_invalid_rate_without_operation_is_rejected() -> None:
    with pytest.raises(ValueError, match="the rate is 'often'; allowed:"):
        check("memory://", {"": "often"})


@pytest.mark.parametrize("make", [check, SyncRates, AsyncRates])
def test_error_names_the_package_to_install_when_redis_is_missing(
    make: Callable[[str, dict[str, str]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValueError, match=r"pip install 'ollama-compat\[redis\]'") as caught:
        make(f"redis://:{PASSWORD}@host", RATES)
    assert PASSWORD not in str(caught.value)
    check("memory://", RATES)


# Credentials


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}",
        f"redis://app:{PASSWORD}",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}@host:port/0",
        f"redis://:{PASSWORD}@host:99999/0",
        f"redis://:{PASSWORD}@host/0?no_such_option=1",
        f"redis://:a/{PASSWORD}@host/0",
        f"redis://:{PASSWORD}/a@host/0",
        f"redis://:{PASSWORD}?a@host/0",
        f"redis://:{PASSWORD}#a@host/0",
        f"redis://host/0?password={PASSWORD}@a&no_such_option=1",
        f"app:{PASSWORD}@host",
        f"mysql://app:{PASSWORD}@host/0",
        f"redis+sentinel://:{PASSWORD}@host:1",
        f"redis+cluster://:{PASSWORD}@host",
    ],
)
def test_error_does_not_contain_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis://host:port/db") as caught:
        check(url, RATES)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_redact_url_removes_user_password_and_query() -> None:
    assert redact_url("memory://") == "memory://"
    assert redact_url("redis://cache:6379/2") == "redis://cache:6379/2"
    assert redact_url("redis://u:p@cache:6379/2?ssl_password=x") == "redis://***@cache:6379/2"
    assert redact_url("redis+sentinel://a:1,b:2/main") == "redis+sentinel://a:1,b:2/main"
    assert redact_url("redis+unix:///run/redis.sock?db=1") == "redis+unix:///run/redis.sock"
    assert redact_url("redis://[::1]:6379/0") == "redis://[::1]:6379/0"
