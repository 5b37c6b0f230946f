"""ollama_compat: the `ollama` package, answered by vLLM where `BACKEND_MODE=vllm`.

    import ollama_compat as ollama

Every name of `ollama` is here: the clients are subclasses of the official ones, all types and exceptions are the
official package's own. The module-level functions (`ollama.chat`) use a client that is made at their first use.
"""

from __future__ import annotations

import functools as _functools
import inspect as _inspect
import threading as _threading
from collections.abc import Callable as _Callable
from typing import TYPE_CHECKING, Any

import ollama as _ollama
from ollama import *  # noqa: F403

from .client import AsyncClient as AsyncClient
from .client import Client as Client
from .errors import ServerUnreachable
from .settings import Profile, Settings, SettingsError, Thinking

__version__ = "0.1.0"

__all__ = [
    *_ollama.__all__,
    "Profile",
    "ServerUnreachable",
    "Settings",
    "SettingsError",
    "Thinking",
]

_default: Client | None = None
_making = _threading.Lock()


def _client() -> Client:
    """The client of the module-level functions, made at their first use."""
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
