"""`Client` and `AsyncClient`: the official clients with one seam changed.

Every method of the official client builds the body of a request and calls `_request`. With `BACKEND_MODE=vllm` that
seam hands the body to the translation, which answers from vLLM; with `BACKEND_MODE=ollama`, and for cloud models in
either mode, the official `_request` goes on as ever.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

import httpx
import ollama

from .mapping.model_names import is_cloud
from .settings import CONFIG, OLLAMA, VARIABLES, Settings, SettingsError, load

if TYPE_CHECKING:
    import asyncio

    import openai

    from .dispatch import Dispatcher
    from .limits.rates import AsyncRates, SyncRates
    from .steps import JsonObject, Steps
    from .telemetry.health import Health
    from .telemetry.stats import Observer, Row, Snapshot
    from .transport.credentials import Credentials

# Settings that `Client(...)` takes by keyword; all other keywords are the official client's.
KEYWORDS = (*(variable.key for variable in VARIABLES), CONFIG.key, "settings")


# httpx's own limit is 100 connections, and vLLM batches as many requests as it is sent. vLLM closes a connection that
# was idle for 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE), as httpx would: whoever asks in that moment would ask a closed one.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2.0)


_FORKED: dict[int, threading.RLock] = {}
"""For each process that is the child of a fork: the lock under which clients begin anew in it."""


class _Backend:
    """Which backend a client has, settled when it is made."""

    settings: Settings
    _client: Any
    _translation: Dispatcher | None = None
    _made: tuple[str | None, dict[str, Any]]
    _process: int | None = None
    """The process that the connections, locks and counts are of."""

    def _choose(self, host: str | None, keywords: dict[str, Any]) -> dict[str, Any]:
        """Take the settings out of a client's keywords; the rest is for the official client."""
        own = {key: keywords.pop(key) for key in KEYWORDS if key in keywords}
        self.settings = _settings(own)
        self._made = host, keywords
        if self._process is None:
            self._process = os.getpid()
        if self.settings.backend_mode == "vllm":
            from .dispatch import Dispatcher
            from .settings_checks import check  # cost nothing in mode `ollama`

            check(self.settings, keywords.get("headers") or {}, os.environ)
            self._translation = Dispatcher(self.settings)
            keywords.setdefault("limits", LIMITS)
        return keywords

    def _exchange(self, path: str, body: Any) -> Steps[None] | None:
        """The exchange that answers a request from vLLM; None: Ollama answers it."""
        translation = self._own()
        return None if translation is None else translation.exchange(path, body, self._client.timeout.read)

    def _own(self) -> Dispatcher | None:
        """The translation, if there is one, of this very process."""
        process = os.getpid()
        if self._translation is not None and self._process != process:
            # A lock of this very process: the parent's may be held for ever.
            with _FORKED.setdefault(process, threading.RLock()):
                if self._process != process:
                    self._after_fork(self._translation)
                    self._process = process  # last: whoever reads it finds all else done
        return self._translation

    def _after_fork(self, parents: Dispatcher) -> None:
        """Begin anew in the child of a fork: connections, locks and counts are the parent's."""
        host, keywords = self._made
        self.__init__(host, settings=self.settings, **keywords)  # type: ignore[misc]
        for cached in ("_keys", "_rates"):
            self.__dict__.pop(cached, None)
        parents.stats.after_fork()
        if self._translation is not None:
            self._translation.watched_as(parents)

    @functools.cached_property
    def _keys(self) -> Credentials:
        from .transport.credentials import read_credentials

        own = self._client.headers.get("authorization")
        return read_credentials(self.settings, self._made[1].get("headers") or {}, own, os.environ)

    def stats(self) -> Snapshot:
        """What happened since the client was made or `reset_stats` was called: plain JSON, see `stats.Snapshot`.

        Per model and operation: calls, errors by kind, retries, failovers, tokens, calls in flight and waiting, and
        percentiles of latency and time to first token in seconds. With `BACKEND_MODE=ollama` nothing is counted.
        """
        from .telemetry.stats import Stats

        translation = self._own()
        return Stats().snapshot() if translation is None else translation.stats.snapshot()

    def rows(self) -> list[Row]:
        """The same as rows with histograms: what `prometheus.register(client)` reads."""
        translation = self._own()
        return [] if translation is None else translation.stats.rows()

    def reset_stats(self) -> None:
        """Begin to count anew."""
        translation = self._own()
        if translation is not None:
            translation.stats.reset()

    def observe(self, observer: Observer) -> None:
        """Have every call from now on told to `observer` too, such as `otel.OpenTelemetry()`."""
        translation = self._own()
        if translation is not None:
            translation.guard.observers.append(observer)

    def _openai_options(self, client: httpx.Client | httpx.AsyncClient, vllm: str | None) -> dict[str, Any]:
        """What an OpenAI client is made with: for the server at `vllm`, or for Ollama (None), each with its key."""
        base = vllm or self._ollama_url
        authorization = self._keys.authorization["vllm" if vllm else OLLAMA] or ""
        given = {key: value for key, value in (self._made[1].get("headers") or {}).items() if value is not None}
        headers = {key: value for key, value in given.items() if key.lower() != "authorization"}
        headers["Accept-Encoding"] = "identity"  # a few compressed bytes could fill the memory
        if authorization and not authorization.startswith("Bearer "):
            headers["Authorization"] = authorization
        return {
            "base_url": f"{base}/v1",
            "api_key": authorization.removeprefix("Bearer ") or "EMPTY",
            "timeout": client.timeout.read,
            "default_headers": headers,
        }

    def _openai_http(self) -> dict[str, Any]:
        """What that one's HTTP client is made with. The prompt and the headers follow no redirect to another host."""
        own = {key: value for key, value in self._made[1].items() if key in ("verify", "cert", "trust_env")}
        return {**own, "follow_redirects": False}

    @property
    def _ollama_url(self) -> str:
        return str(self._client.base_url).rstrip("/")

    def served_name(self, model: str) -> str:
        """The name under which vLLM serves an Ollama model name: what to ask `openai()` for."""
        if self._translation is None or is_cloud(model):
            return model
        return self._translation.names.served(model)


def _settings(own: dict[str, Any]) -> Settings:
    settings = own.pop("settings", None)
    if settings is None:
        return load(own)
    if not isinstance(settings, Settings):
        raise SettingsError(f"settings must be an ollama_compat.Settings, not {type(settings).__name__}")
    if own:
        raise SettingsError(f"settings= is whole: {', '.join(own)} can't be given beside it")
    return settings


class Client(_Backend, ollama.Client):
    """`ollama.Client`, answered by vLLM where `BACKEND_MODE` says so.

    All keywords of the official client mean what they mean there; `host` and `OLLAMA_HOST` name the Ollama server in
    either mode. Beside them: `backend_mode`, `vllm_urls`, `vllm_api_key`, `vllm_model_map`, `ollama_compat_config`,
    each over the environment variable of that name, or a whole `settings=Settings(...)`. Raises `SettingsError` for a
    wrong value.
    """

    def __init__(self, host: str | None = None, **kwargs: Any) -> None:
        """Make a client; no request is sent."""
        super().__init__(host, **self._choose(host, kwargs))

    def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        exchange = self._exchange(args[1], kwargs.get("json"))
        if exchange is None:
            return super()._request(cls, *args, stream=stream, **kwargs)
        parts = self._run(exchange)
        if stream:
            return _typed(cls, parts)
        with contextlib.closing(parts):
            *_, whole = parts  # to the end: what comes after the last part is part of the call
        return cls(**whole)

    def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        exchange = self._exchange(args[1], kwargs.get("json"))
        if exchange is not None:  # copy and delete look at nothing but the status
            with contextlib.closing(self._run(exchange)) as parts:
                return httpx.Response(200, json=next(parts))
        return super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]

    def openai(self, model: str) -> openai.OpenAI:
        """A ready `openai.OpenAI` for the server that serves `model`: the way out of the Ollama API.

        It has this client's headers, key, timeout, `verify`, `cert` and `trust_env`; other keywords, such as
        `transport`, are httpx's and can't be handed on. It follows no redirects and asks for replies that are not
        compressed; all else that a client bounds is the OpenAI package's there. Ask it for
        `client.served_name(model)`. With `BACKEND_MODE=ollama`, and for cloud models, it speaks to Ollama's own OpenAI
        endpoint. Raises what `chat` raises for a model that is nowhere. Close it as you close a client.
        """
        from openai import DefaultHttpxClient, OpenAI

        vllm, translation = None, self._own()
        if translation is not None and not is_cloud(model):
            with contextlib.closing(self._run(translation.locate(model, self._client.timeout.read))) as parts:
                vllm = next(parts)["url"]
        options = self._openai_options(self._client, vllm)
        return OpenAI(**options, http_client=DefaultHttpxClient(**self._openai_http()))

    def _run(self, exchange: Steps[None]) -> Generator[JsonObject]:
        from .transport.driver import SyncDriver

        return SyncDriver(self._client, self._keys, self._rates).run(exchange)

    @functools.cached_property
    def _rates(self) -> SyncRates | None:
        if self.settings.vllm_limits is None:
            return None
        from .limits.rates import SyncRates

        return SyncRates(self.settings.vllm_limits, self.settings.rates)

    def health(self, timeout: float = 2.0) -> Health:
        """How the servers are: see `health.Health`. Answers within `timeout` seconds, whatever they do."""
        from .telemetry.health import examined

        with contextlib.closing(self._run(examined(self._own(), timeout, self._keys, self._ollama_url))) as parts:
            return cast("Health", next(parts))


class AsyncClient(_Backend, ollama.AsyncClient):
    """`ollama.AsyncClient`, answered by vLLM where `BACKEND_MODE` says so: the async twin of `Client`."""

    _loop: asyncio.AbstractEventLoop | None = None
    """The event loop of the last call."""

    def __init__(self, host: str | None = None, **kwargs: Any) -> None:
        """Make a client; no request is sent."""
        super().__init__(host, **self._choose(host, kwargs))

    async def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        exchange = self._exchange(args[1], kwargs.get("json"))
        if exchange is None:
            return await super()._request(cls, *args, stream=stream, **kwargs)
        parts = self._run(exchange)
        if stream:
            return _atyped(cls, parts)
        async with contextlib.aclosing(parts):
            whole = [part async for part in parts][-1]
        return cls(**whole)

    async def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        exchange = self._exchange(args[1], kwargs.get("json"))
        if exchange is not None:
            async with contextlib.aclosing(self._run(exchange)) as parts:
                return httpx.Response(200, json=await anext(parts))
        return await super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]

    async def openai(self, model: str) -> openai.AsyncOpenAI:
        """A ready `openai.AsyncOpenAI` for the server that serves `model`: see `Client.openai`."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        vllm, translation = None, self._own()
        if translation is not None and not is_cloud(model):
            async with contextlib.aclosing(self._run(translation.locate(model, self._client.timeout.read))) as parts:
                vllm = (await anext(parts))["url"]
        options = self._openai_options(self._client, vllm)
        return AsyncOpenAI(**options, http_client=DefaultAsyncHttpxClient(**self._openai_http()))

    def _run(self, exchange: Steps[None]) -> AsyncGenerator[JsonObject]:
        from .transport.driver import AsyncDriver

        self._follow_loop()
        return AsyncDriver(self._client, self._keys, self._rates).run(exchange)

    def _follow_loop(self) -> None:
        """Open new connections after the event loop has ended in which the old ones were opened: they ended with it."""
        import asyncio  # 9 ms: only where a loop runs

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio's
            return
        before, self._loop = self._loop, loop
        if before is not None and before.is_closed() and not self._client.is_closed:
            host, keywords = self._made
            ollama.AsyncClient.__init__(self, host, **keywords)

    @functools.cached_property
    def _rates(self) -> AsyncRates | None:
        if self.settings.vllm_limits is None:
            return None
        from .limits.rates import AsyncRates

        return AsyncRates(self.settings.vllm_limits, self.settings.rates)

    async def health(self, timeout: float = 2.0) -> Health:
        """How the servers are: the async twin of `Client.health`."""
        from .telemetry.health import examined

        async with contextlib.aclosing(
            self._run(examined(self._own(), timeout, self._keys, self._ollama_url))
        ) as parts:
            return cast("Health", await anext(parts))


def _typed(cls: Any, parts: Generator[JsonObject]) -> Iterator[Any]:
    with contextlib.closing(parts):
        for part in parts:
            yield cls(**part)


async def _atyped(cls: Any, parts: AsyncGenerator[JsonObject]) -> AsyncIterator[Any]:
    async with contextlib.aclosing(parts):
        async for part in parts:
            yield cls(**part)
