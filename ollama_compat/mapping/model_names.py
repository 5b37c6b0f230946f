"""Parses and compares model names as Ollama does (0.33, types/model/name.go).

`smol`, `SMOL`, `smol:latest`, `library/smol` and `registry.ollama.ai/library/smol:latest` are one model. A name has a
host, a namespace, a model and a tag. Ollama's defaults replace missing parts, and letter case does not matter. A name
that ends in `:cloud` or `-cloud` is a model of Ollama's cloud. vLLM never serves it.
"""

from __future__ import annotations

import re
from functools import lru_cache

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

MAX_CACHED_LENGTH = 512
"""The longest name that a cache keeps (characters): callers can invent names, so the memory of a cache is bounded."""

_CLOUD_SUFFIXES = (":cloud", "-cloud")
_LOCAL_SUFFIX = ":local"  # only distinguishes a name from the cloud model of the same name

# Each part begins with a letter, a digit or "_".
_NAME = re.compile(
    r"(?:(?:(?:[a-z]+://)?(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?"
    r"(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII | re.IGNORECASE,
)


def is_cloud(name: str) -> bool:
    """Whether `name` is a model of Ollama's cloud."""
    return name.strip().lower().endswith(_CLOUD_SUFFIXES)


def canonical(name: str) -> str | None:
    """`name` with all its parts, in lower case. None: the name is invalid in Ollama."""
    return _cached_canonical(name) if len(name) <= MAX_CACHED_LENGTH else _canonical(name)


def _canonical(name: str) -> str | None:
    full = _in_full(name)
    return None if full is None else full.lower()


_cached_canonical = lru_cache(maxsize=4096)(_canonical)


def qualified(name: str) -> str:
    """`name` with all its parts and its own letter case, as in Ollama's messages. An invalid name stays unchanged."""
    return _in_full(name) or name


def _in_full(name: str) -> str | None:
    name = name.strip()
    if name.lower().endswith(_LOCAL_SUFFIX):
        name = name[: -len(_LOCAL_SUFFIX)]
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    host, namespace = parts["host"] or DEFAULT_HOST, parts["namespace"] or DEFAULT_NAMESPACE
    return f"{host}/{namespace}/{parts['model']}:{parts['tag'] or DEFAULT_TAG}"


def with_tag(name: str) -> str:
    """`name` with its tag, as in Ollama's lists: `smol` becomes `smol:latest`."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:{DEFAULT_TAG}"


def same(name: str, other: str) -> bool:
    """Whether two names mean one model. A name that is invalid in Ollama equals only itself."""
    left, right = canonical(name), canonical(other)
    if left is None or right is None:
        return name == other
    return left == right
