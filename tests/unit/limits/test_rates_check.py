"""What the settings of the rates may hold, and what is told where they hold something else: no password."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import pytest

from ollama_compat.limits.rates import AsyncRates, SyncRates, check, shown

GATEWAY = {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
PASSWORD = "nobody-may-see-this"


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
def test_what_may_be_held_is_taken_without_connecting(url: str) -> None:
    check(url, GATEWAY)


@pytest.mark.parametrize(
    ("url", "says"),
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
        ("redis+cluster://cache", "each place is host:port"),
    ],
)
def test_another_url_is_told_with_what_it_may_hold(url: str, says: str) -> None:
    with pytest.raises(ValueError, match="memory://, redis://host:port/db") as caught:
        check(url, GATEWAY)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "rate", ["", "often", "600", "600/fortnight", "-1/minute", "0.5/second", "0/minute", "5/minute;"]
)
def test_a_rate_that_is_none_is_told_with_what_it_may_hold(rate: str) -> None:
    with pytest.raises(ValueError, match="600/minute") as caught:
        check("memory://", {"chat": rate})
    assert f"the rate of chat is {rate!r}" in str(caught.value)


def test_a_rate_of_no_operation_in_particular_is_told_too() -> None:
    with pytest.raises(ValueError, match="the rate is 'often'; it may be"):
        check("memory://", {"": "often"})


@pytest.mark.parametrize("make", [check, SyncRates, AsyncRates])
def test_a_missing_redis_package_is_told_with_what_to_do(
    make: Callable[[str, dict[str, str]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValueError, match=r"pip install 'ollama-compat\[redis\]'") as caught:
        make(f"redis://:{PASSWORD}@host", GATEWAY)
    assert PASSWORD not in str(caught.value)
    check("memory://", GATEWAY)


# The password


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
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis://host:port/db") as caught:
        check(url, GATEWAY)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_a_url_is_shown_as_far_as_it_is_no_secret() -> None:
    assert shown("memory://") == "memory://"
    assert shown("redis://cache:6379/2") == "redis://cache:6379/2"
    assert shown("redis://u:p@cache:6379/2?ssl_password=x") == "redis://***@cache:6379/2"
    assert shown("redis+sentinel://a:1,b:2/main") == "redis+sentinel://a:1,b:2/main"
    assert shown("redis+unix:///run/redis.sock?db=1") == "redis+unix:///run/redis.sock"
    assert shown("redis://[::1]:6379/0") == "redis://[::1]:6379/0"
