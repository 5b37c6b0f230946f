"""Model names as Ollama reads them.

`smol`, `SMOL`, `smol:latest`, `library/smol` and `registry.ollama.ai/library/smol:latest` are one model. A name is
parsed from its right end into tag, model, namespace and host; what is missing is filled with Ollama's defaults, and
letter case means nothing (Ollama 0.33, types/model/name.go). Names that end in `:cloud` or `-cloud` are models of
Ollama's cloud and are never served by vLLM.
"""

from __future__ import annotations

import re
from functools import lru_cache

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_CLOUD_SUFFIXES = (":cloud", "-cloud")
_LOCAL_SUFFIX = ":local"  # says "not the cloud's model of that name", and nothing else

# host, namespace, model, tag: first character alphanumeric or "_", then what each part allows.
_NAME = re.compile(
    r"(?:(?:(?:[a-z]+://)?(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?"
    r"(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII | re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def is_cloud(name: str) -> bool:
    """Whether `name` is a model of Ollama's cloud."""
    return name.strip().lower().endswith(_CLOUD_SUFFIXES)


@lru_cache(maxsize=4096)
def canonical(name: str) -> str | None:
    """`name` in full and in lower case, or None when Ollama would call it invalid."""
    full = _in_full(name)
    return None if full is None else full.lower()


def qualified(name: str) -> str:
    """`name` in full as Ollama's messages write it, letter case kept."""
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
    """`name` with its tag, as Ollama's lists write it: `smol` is `smol:latest`."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:{DEFAULT_TAG}"


def same(name: str, other: str) -> bool:
    """Whether two names are one model to Ollama. Names that Ollama would refuse are compared as they are."""
    left, right = canonical(name), canonical(other)
    if left is None or right is None:
        return name == other
    return left == right
