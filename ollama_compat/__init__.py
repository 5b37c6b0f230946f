"""ollama_compat: the `ollama` package, answered by vLLM with `BACKEND_MODE=vllm`.

    import ollama_compat as ollama

It exports every name of `ollama`: the clients are subclasses of the official ones, and all types and exceptions are the
official package's own. The module's functions (`ollama.chat`) use a client that they make at their first use. Beside
them it exports the settings and the exceptions of this package (exceptions.py).
"""

from __future__ import annotations

import functools as _functools
import inspect as _inspect
import os as _os
import threading as _threading
from collections.abc import Callable as _Callable
from typing import TYPE_CHECKING, Any

try:
    import ollama as _ollama
except ImportError:
    raise
except Exception as _problem:  # it makes a client at once, so something is wrong with the environment
    import sys as _sys

    from .import_error import explain as _explain
    from .import_error import is_command as _is_command

    if _is_command():
        print(_explain(_problem), file=_sys.stderr)
        raise SystemExit(2) from None
    _problem.add_note(_explain(_problem))
    raise

if not TYPE_CHECKING:
    from ollama import *  # noqa: F403

from .client import AsyncClient as AsyncClient
from .client import Client as Client
from .exceptions import (
    CircuitOpen,
    ConnectionsExhausted,
    IncompleteReply,
    MalformedReply,
    RateLimited,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
)
from .settings import Profile, Provider, Settings, SettingsError, Thinking

if TYPE_CHECKING:  # by name, because the line above also names the official clients
    from ollama import ChatResponse as ChatResponse
    from ollama import EmbeddingsResponse as EmbeddingsResponse
    from ollama import EmbedResponse as EmbedResponse
    from ollama import GenerateResponse as GenerateResponse
    from ollama import Image as Image
    from ollama import ListResponse as ListResponse
    from ollama import Message as Message
    from ollama import Options as Options
    from ollama import ProcessResponse as ProcessResponse
    from ollama import ProgressResponse as ProgressResponse
    from ollama import RequestError as RequestError
    from ollama import ResponseError as ResponseError
    from ollama import ShowResponse as ShowResponse
    from ollama import StatusResponse as StatusResponse
    from ollama import SystemOneAnswer as SystemOneAnswer
    from ollama import SystemOneChoiceAnswer as SystemOneChoiceAnswer
    from ollama import SystemOneChoiceQuestion as SystemOneChoiceQuestion
    from ollama import SystemOneContent as SystemOneContent
    from ollama import SystemOneNoulAnswer as SystemOneNoulAnswer
    from ollama import SystemOneNoulQuestion as SystemOneNoulQuestion
    from ollama import SystemOneQuestion as SystemOneQuestion
    from ollama import SystemOneRequest as SystemOneRequest
    from ollama import SystemOneResponse as SystemOneResponse
    from ollama import SystemOneScoreAnswer as SystemOneScoreAnswer
    from ollama import SystemOneScoreQuestion as SystemOneScoreQuestion
    from ollama import SystemOneUsage as SystemOneUsage
    from ollama import Tool as Tool
    from ollama import WebFetchResponse as WebFetchResponse
    from ollama import WebSearchResponse as WebSearchResponse

    from .servers.health import Health
    from .telemetry.stats import Snapshot

__version__ = "0.1.0"

__all__ = [
    *_ollama.__all__,
    "CircuitOpen",
    "ConnectionsExhausted",
    "IncompleteReply",
    "MalformedReply",
    "Profile",
    "Provider",
    "RateLimited",
    "ServerNotReady",
    "ServerTimeout",
    "ServerUnreachable",
    "Settings",
    "SettingsError",
    "Thinking",
]

_default: Client | None = None
_making = _threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in the child of a fork: another thread of the parent may hold the parent's for ever."""
    global _making
    _making = _threading.Lock()


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_renew_lock)


def _client() -> Client:
    """The client of the module's functions, made at the first use."""
    global _default
    with _making:
        if _default is None:
            _default = Client()
        return _default


def _function(name: str) -> _Callable[..., Any]:
    """The client's method `name` as a function of this module, with its signature."""
    method = getattr(_ollama.Client, name)

    @_functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_client(), name)(*args, **kwargs)

    signature = _inspect.signature(method)
    call.__signature__ = signature.replace(parameters=tuple(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    call.__module__ = __name__
    return call


def health(timeout: float = 2.0) -> Health:
    """The health of all servers, within `timeout` seconds: see `Client.health`."""
    return _client().health(timeout)


def stats() -> Snapshot:
    """The statistics since the first call: see `Client.stats`."""
    return _client().stats()


if TYPE_CHECKING:
    from ollama import chat as chat
    from ollama import copy as copy
    from ollama import create as create
    from ollama import delete as delete
    from ollama import embed as embed
    from ollama import embeddings as embeddings
    from ollama import generate as generate
    from ollama import list as list
    from ollama import ps as ps
    from ollama import pull as pull
    from ollama import push as push
    from ollama import show as show
    from ollama import systemone as systemone
    from ollama import web_fetch as web_fetch
    from ollama import web_search as web_search
else:
    chat = _function("chat")
    copy = _function("copy")
    create = _function("create")
    delete = _function("delete")
    embed = _function("embed")
    embeddings = _function("embeddings")
    generate = _function("generate")
    list = _function("list")
    ps = _function("ps")
    pull = _function("pull")
    push = _function("push")
    show = _function("show")
    systemone = _function("systemone")
    web_fetch = _function("web_fetch")
    web_search = _function("web_search")
