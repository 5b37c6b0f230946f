"""`Client` and `AsyncClient`: the official clients with one method replaced.

Every method of the official client builds the body of a request and calls `_request`, the only override point. With
`BACKEND_MODE=vllm`, `_request` hands the body to the dispatcher (dispatch.py), which returns the steps that answer it,
and a driver (transport/driver.py) runs the steps. With `BACKEND_MODE=ollama`, and for cloud models in either mode, the
official `_request` runs unchanged.
"""

from __future__ import annotations

import contextlib
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
    from .limits.rates import AsyncRates
    from .servers.health import Health
    from .steps import JsonObject, Steps
    from .telemetry.call_record import Observer
    from .telemetry.stats import Row, Snapshot
    from .transport.credentials import Credentials
    from .transport.driver import AsyncDriver, SyncDriver

KEYWORDS = (*(variable.key for variable in VARIABLES), CONFIG.key, "settings")
"""The keywords of `Client(...)` that are settings; all others are the official client's."""

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2.0)
"""httpx limits connections to 100 by default, and vLLM batches as many requests as it receives. vLLM closes a
connection that was idle for 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE); a request at that moment would meet a closed one."""

_FORK_LOCKS: dict[int, threading.RLock] = {}
"""For each process that is the child of a fork: the lock under which its clients start anew."""


class _BaseClient:
    """What both clients share: the settings, the dispatcher, statistics, and what happens after a fork."""

    settings: Settings
    _client: Any
    _dispatcher: Dispatcher | None = None
    _arguments: tuple[str | None, dict[str, Any]]
    """The host and the official client's keywords."""
    _process: int | None = None
    """The process that the connections, locks and counts belong to."""

    def _configure(self, host: str | None, keywords: dict[str, Any]) -> dict[str, Any]:
        """Take the settings out of the keywords of a client; the others are for the official client."""
        own = {key: keywords.pop(key) for key in KEYWORDS if key in keywords}
        self.settings = _settings(own)
        self._arguments = host, keywords
        if self._process is None:
            self._process = os.getpid()
        if self.settings.backend_mode == "vllm":
            from .dispatch import Dispatcher  # mode `ollama` needs neither
            from .settings_checks import check

            check(self.settings, keywords.get("headers") or {}, os.environ)
            self._dispatcher = Dispatcher(self.settings)
            keywords.setdefault("limits", LIMITS)
        return keywords

    def _steps(self, path: str, body: Any) -> Steps[None] | None:
        """The steps that answer a request from vLLM; None: Ollama answers it."""
        dispatcher = self._own_dispatcher()
        return None if dispatcher is None else dispatcher.dispatch(path, body, self._client.timeout.read)

    def _own_dispatcher(self) -> Dispatcher | None:
        """The dispatcher of this process; None in mode `ollama`."""
        dispatcher, process = self._dispatcher, os.getpid()
        if dispatcher is not None and self._process != process:
            # A lock of this process: another thread of the parent may hold the parent's for ever.
            with _FORK_LOCKS.setdefault(process, threading.RLock()):
                if self._process != process:
                    self._start_anew(dispatcher)
                    self._process = process  # last: a thread that reads it finds the rest complete
        return self._dispatcher

    def _start_anew(self, parent: Dispatcher) -> None:
        """Replace connections, locks and counts in the child of a fork: they belong to the parent."""
        host, keywords = self._arguments
        self.__init__(host, settings=self.settings, **keywords)  # type: ignore[misc]
        parent.stats.after_fork()
        if self._dispatcher is not None:
            self._dispatcher.after_fork(parent)

    def _credentials(self) -> Credentials:
        from .transport.credentials import read_credentials

        own = self._client.headers.get("authorization")
        return read_credentials(self.settings, self._arguments[1].get("headers") or {}, own, os.environ)

    def stats(self) -> Snapshot:
        """The statistics since the client was made or `reset_stats` was called, as plain JSON.

        For each model and operation: calls, errors by kind, retries, failovers, tokens, calls in flight and waiting,
        percentiles of latency and time to first token (seconds). With `BACKEND_MODE=ollama` nothing is counted.
        """
        from .telemetry.stats import Stats

        dispatcher = self._own_dispatcher()
        return Stats().snapshot() if dispatcher is None else dispatcher.stats.snapshot()

    def rows(self) -> list[Row]:
        """The same as rows with histograms: what `prometheus.register(client)` reads."""
        dispatcher = self._own_dispatcher()
        return [] if dispatcher is None else dispatcher.stats.rows()

    def reset_stats(self) -> None:
        """Set all counts to zero."""
        dispatcher = self._own_dispatcher()
        if dispatcher is not None:
            dispatcher.stats.reset()

    def observe(self, observer: Observer) -> None:
        """Notify `observer`, such as `otel.OpenTelemetry()`, of every call from now on."""
        dispatcher = self._own_dispatcher()
        if dispatcher is not None:
            dispatcher.observers.add(observer)

    def _health_steps(self, timeout: float) -> Steps[None]:
        from .servers.health import health_steps

        dispatcher = self._own_dispatcher()
        registry = None if dispatcher is None else dispatcher.registry
        return health_steps(registry, timeout, self._credentials().redact_text, self._ollama_url)

    def served_name(self, model: str) -> str:
        """The name under which vLLM serves an Ollama model name: the model to request from `openai()`."""
        if self._dispatcher is None or is_cloud(model):
            return model
        return self._dispatcher.resolver.served(model)

    def _openai_options(self, client: httpx.Client | httpx.AsyncClient, vllm: str | None) -> dict[str, Any]:
        """The arguments of an OpenAI client for the server at `vllm`, or for Ollama (None), each with its key."""
        base = vllm or self._ollama_url
        authorization = self._credentials().authorization["vllm" if vllm else OLLAMA] or ""
        given = {key: value for key, value in (self._arguments[1].get("headers") or {}).items() if value is not None}
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

    def _openai_http_options(self) -> dict[str, Any]:
        """The arguments of its HTTP client. No redirect carries the prompt and the headers to another host."""
        own = {key: value for key, value in self._arguments[1].items() if key in ("verify", "cert", "trust_env")}
        return {**own, "follow_redirects": False}

    @property
    def _ollama_url(self) -> str:
        return str(self._client.base_url).rstrip("/")


def _settings(own: dict[str, Any]) -> Settings:
    settings = own.pop("settings", None)
    if settings is None:
        return load(own)
    if not isinstance(settings, Settings):
        raise SettingsError(f"settings must be an ollama_compat.Settings, not {type(settings).__name__}")
    if own:
        raise SettingsError(f"settings= holds all settings: {', '.join(own)} cannot be given beside it")
    return settings


class Client(_BaseClient, ollama.Client):
    """`ollama.Client`, answered by vLLM with `BACKEND_MODE=vllm`.

    All keywords of the official client keep their meaning: `host` and `OLLAMA_HOST` are the Ollama server in either
    mode; `timeout` (seconds, default: none) bounds connecting and each read of a call, discovery, admission and
    retries; `headers`, `verify`, `transport` and the others are httpx's. Further keywords, each in place of the
    environment variable of that name:

    - `backend_mode`: 'ollama' (default) or 'vllm'
    - `vllm_urls`: base URLs of the vLLM servers (default: ports 8001 and 8002 of this machine)
    - `vllm_api_key`: bearer key sent to vLLM (default: none)
    - `vllm_model_map`: Ollama name -> served name
    - `vllm_failover`: model -> fallbacks (default: none)
    - `vllm_limits`: where rates are counted, `memory://` or a Redis URL (default: no limits)
    - `vllm_generate_rate`, `vllm_chat_rate`, `vllm_embed_rate`: such as '300/minute', with limits
    - `vllm_max_concurrent`: calls in flight at once (default: 10 with limits, otherwise no limit)
    - `ollama_compat_config`: path of a TOML file with all of the above and the model profiles
    - `settings`: a whole `ollama_compat.Settings` in place of all these

    Raises `SettingsError` for an invalid setting. Calls raise the official client's exceptions, or those of
    `ollama_compat.exceptions`, which a handler for the official ones also catches.
    """

    _driver: SyncDriver | None
    """Made with the client and not at its first call: a process may fork in the middle of that call."""

    def __init__(self, host: str | None = None, **kwargs: Any) -> None:
        """Make a client. It sends no request."""
        super().__init__(host, **self._configure(host, kwargs))
        self._driver = None if self._dispatcher is None else self._make_driver()

    def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        steps = self._steps(args[1], kwargs.get("json"))
        if steps is None:
            return super()._request(cls, *args, stream=stream, **kwargs)
        parts = self._run(steps)
        if stream:
            return _typed(cls, parts)
        with contextlib.closing(parts):
            *_, last = parts  # to the end: what happens after the last part belongs to the call
        return cls(**last)

    def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        steps = self._steps(args[1], kwargs.get("json"))
        if steps is None:
            return super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        return httpx.Response(200, json=self._first_part(steps))  # copy and delete read the status alone

    def openai(self, model: str) -> openai.OpenAI:
        """A ready `openai.OpenAI` for the server that serves `model`: for code that needs more than the Ollama API.

        It has this client's headers, key, timeout, `verify`, `cert` and `trust_env`; other keywords, such as
        `transport`, are httpx's and cannot be passed on. It follows no redirects and requests replies without
        compression. Request the model `client.served_name(model)` from it. With `BACKEND_MODE=ollama`, and for cloud
        models, it uses Ollama's own OpenAI endpoint. Raises what `chat` raises for a model that no server has. Close it
        as you close a client.
        """
        from openai import DefaultHttpxClient, OpenAI

        vllm, dispatcher = None, self._own_dispatcher()
        if dispatcher is not None and not is_cloud(model):
            vllm = self._first_part(dispatcher.locate(model, self._client.timeout.read))["url"]
        options = self._openai_options(self._client, vllm)
        return OpenAI(**options, http_client=DefaultHttpxClient(**self._openai_http_options()))

    def health(self, timeout: float = 2.0) -> Health:
        """The health of all servers, within `timeout` seconds whatever they do: see `servers.health.Health`."""
        return cast("Health", self._first_part(self._health_steps(timeout)))

    def _first_part(self, steps: Steps[None]) -> JsonObject:
        with contextlib.closing(self._run(steps)) as parts:
            return next(parts)

    def _run(self, steps: Steps[None]) -> Generator[JsonObject]:
        driver = self._driver or self._make_driver()  # mode `ollama` needs one for `health` alone
        return driver.run(steps)

    def _make_driver(self) -> SyncDriver:
        from .transport.driver import SyncDriver

        rates = None
        if self.settings.vllm_limits is not None:
            from .limits.rates import SyncRates

            rates = SyncRates(self.settings.vllm_limits, self.settings.rates)
        return SyncDriver(self._client, self._credentials(), rates)


class AsyncClient(_BaseClient, ollama.AsyncClient):
    """`ollama.AsyncClient`, answered by vLLM with `BACKEND_MODE=vllm`; its keywords are those of `Client`."""

    _driver: AsyncDriver | None
    _loop: asyncio.AbstractEventLoop | None = None
    """The event loop of the last call."""

    def __init__(self, host: str | None = None, **kwargs: Any) -> None:
        """Make a client. It sends no request."""
        super().__init__(host, **self._configure(host, kwargs))
        self._driver = None if self._dispatcher is None else self._make_driver()

    async def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        steps = self._steps(args[1], kwargs.get("json"))
        if steps is None:
            return await super()._request(cls, *args, stream=stream, **kwargs)
        parts = self._run(steps)
        if stream:
            return _atyped(cls, parts)
        async with contextlib.aclosing(parts):
            last = [part async for part in parts][-1]
        return cls(**last)

    async def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        steps = self._steps(args[1], kwargs.get("json"))
        if steps is None:
            return await super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        return httpx.Response(200, json=await self._first_part(steps))

    async def openai(self, model: str) -> openai.AsyncOpenAI:
        """A ready `openai.AsyncOpenAI` for the server that serves `model`: see `Client.openai`."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        vllm, dispatcher = None, self._own_dispatcher()
        if dispatcher is not None and not is_cloud(model):
            vllm = (await self._first_part(dispatcher.locate(model, self._client.timeout.read)))["url"]
        options = self._openai_options(self._client, vllm)
        return AsyncOpenAI(**options, http_client=DefaultAsyncHttpxClient(**self._openai_http_options()))

    async def health(self, timeout: float = 2.0) -> Health:
        """The health of all servers: the async twin of `Client.health`."""
        return cast("Health", await self._first_part(self._health_steps(timeout)))

    async def _first_part(self, steps: Steps[None]) -> JsonObject:
        async with contextlib.aclosing(self._run(steps)) as parts:
            return await anext(parts)

    def _run(self, steps: Steps[None]) -> AsyncGenerator[JsonObject]:
        self._follow_loop()
        driver = self._driver or self._make_driver()
        return driver.run(steps)

    def _follow_loop(self) -> None:
        """Open new connections if the event loop of the old ones is closed: they ended with it."""
        import asyncio  # 9 ms: only where a loop runs

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio's
            return
        before, self._loop = self._loop, loop
        if before is not None and before.is_closed() and not self._client.is_closed:
            host, keywords = self._arguments
            ollama.AsyncClient.__init__(self, host, **keywords)
            if self._driver is not None:
                self._driver = self._make_driver(self._driver.rates)

    def _make_driver(self, rates: AsyncRates | None = None) -> AsyncDriver:
        from .transport.driver import AsyncDriver

        if rates is None and self.settings.vllm_limits is not None:
            from .limits.rates import AsyncRates

            rates = AsyncRates(self.settings.vllm_limits, self.settings.rates)
        return AsyncDriver(self._client, self._credentials(), rates)


def _typed(cls: Any, parts: Generator[JsonObject]) -> Iterator[Any]:
    with contextlib.closing(parts):
        for part in parts:
            yield cls(**part)


async def _atyped(cls: Any, parts: AsyncGenerator[JsonObject]) -> AsyncIterator[Any]:
    async with contextlib.aclosing(parts):
        async for part in parts:
            yield cls(**part)
