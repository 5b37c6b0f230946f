"""The URL of the storage that counts calls (`VLLM_LIMITS`): its syntax, and the redaction of its credentials."""

from __future__ import annotations

import re
from urllib.parse import unquote

from ..telemetry.log import line

MEMORY = "memory://"
REDIS_SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster")
"""URL schemes of the `limits` package for Redis: plain, TLS, Unix socket, Sentinel, Cluster."""
ALLOWED_URLS = (
    "memory://, redis://host:port/db, rediss://host:port/db, redis+unix:///path, "
    "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port"
)

_MAX_ERROR_LENGTH = 200  # characters: the error of a sentinel lists every option of the connection
_HOST = r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d+)?"
_URL = re.compile(
    rf"(?P<scheme>[a-z0-9+.-]+)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>{_HOST}(?:,{_HOST})*)?(?P<path>/[^?#@]*)?"
    r"(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)


def check_url(url: str) -> None:
    """Raise `ValueError` if `url` is neither `memory://` nor a URL of Redis."""
    if url == MEMORY:
        return
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"] not in REDIS_SCHEMES or not (parts["hosts"] or parts["path"]):
        raise ValueError(f"{redact_url(url)!r} is not a storage for rate limits; allowed: {ALLOWED_URLS}")
    if parts["scheme"] == "redis+cluster" and not (
        all(re.search(r":\d+$", node) for node in (parts["hosts"] or "").split(","))
        and parts["path"] in (None, "/")
        and parts["query"] is None
    ):
        raise unusable_url(url, "each node of a cluster must be host:port")


def unusable_url(url: str, cause: str) -> ValueError:
    """The error for a URL that Redis cannot be reached with. `cause` must not contain credentials."""
    return ValueError(f"{redact_url(url)!r} is not usable ({cause}); allowed: {ALLOWED_URLS}")


def redact_url(url: str) -> str:
    """Remove user, password and query from `url`, so that logs and errors may contain it."""
    parts = _URL.fullmatch(url)
    if parts is not None:
        user = "" if parts["user"] is None else "***@"
        return f"{parts['scheme']}://{user}{parts['hosts'] or ''}{parts['path'] or ''}"
    scheme, separator, _ = url.partition("://")
    if separator:  # not a valid URL: any part of the rest may be a password
        return f"{scheme}://***" if scheme.isalnum() else "***"
    return "***" if any(mark in url for mark in ":@") else url


def redact_error(error: Exception, url: str) -> str:
    """Describe `error` on one line of bounded length, without the credentials in `url`."""
    text = f"{type(error).__name__}: {error}".replace(url, redact_url(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):  # the longest first: it may contain a shorter one
        text = text.replace(secret, "***")
    return line(text, _MAX_ERROR_LENGTH)


def _secrets(url: str) -> set[str]:
    """The passwords in `url`: as written, and with percent-encoding decoded."""
    parts = _URL.fullmatch(url)
    if parts is None:
        return set()
    pairs = (pair.partition("=") for pair in (parts["query"] or "").split("&"))
    passwords = [value for name, _, value in pairs if "password" in name]
    passwords.append((parts["user"] or "").partition(":")[2])
    return {form for password in passwords for form in (password, unquote(password)) if form}
