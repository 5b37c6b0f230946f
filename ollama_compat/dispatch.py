"""The life of a call: observe it, admit it, then try each backend, each of its servers, and run the operation there.

`Dispatcher.dispatch` finds what answers a request of the Ollama API. `Dispatcher.call` is the life of a call to one
model. Both return steps (steps.py): this file does no I/O, and `SyncDriver` or `AsyncDriver` (transport/driver.py) runs
the generator. servers/failures.py says which failure allows which attempt; nothing is repeated after the caller has
received a part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .attempts import Attempts, CallState, FallbackChain
from .call import Call, ClientContext, Progress
from .limits.admission import Admission
from .mapping.model_names import MAX_CACHED_LENGTH, is_cloud
from .mapping.ollama_errors import model_required, response_error
from .operations import catalog, profiles
from .operations.catalog_context import CatalogContext
from .operations.chat import chat
from .operations.embed import embed, embeddings
from .operations.generate import generate
from .operations.passthrough import passthrough
from .operations.systemone import systemone
from .profiles.resolver import ModelResolver
from .profiles.store import ProfileFile, ProfileStore, Version, data_folder
from .providers.adapter import ProviderAdapter
from .servers.backends import VLLM, Backend, Backends
from .servers.failures import classify
from .servers.registry import ServerRegistry
from .servers.server import Server, Target
from .settings import OLLAMA, RATES, Settings, model_names
from .steps import Clock, Sleep, Steps, SystemClock, intercept
from .telemetry.call_record import CANCELLED, CallRecord
from .telemetry.log import log_decision
from .telemetry.observers import Contexts, Observers
from .telemetry.stats import Stats

Operation = Callable[[Call], Steps[None]]

OPERATIONS: Mapping[str, Operation] = {
    "/api/chat": chat,
    "/api/generate": generate,
    "/api/embed": embed,
    "/api/embeddings": embeddings,
    "/api/show": catalog.show,
    "/api/pull": catalog.pull,
    "/v1/systemone": systemone,
}
"""The endpoints that concern one model, and their operations."""

CATALOG_OPERATIONS: Mapping[str, Callable[[CatalogContext], Steps[None]]] = {
    "/api/tags": catalog.tags,
    "/api/ps": catalog.ps,
    "/api/create": profiles.create,
    "/api/copy": profiles.copy,
    "/api/delete": profiles.delete,
}
"""The endpoints that concern all servers, or the names of models."""

FALLBACK_PATHS = frozenset(("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"))
"""The endpoints that a fallback may answer."""

REFUSED: Mapping[str, str] = {
    "/api/push": "there is no registry behind vLLM: upload the model with the tools of the hub it comes from",
    "/api/blobs": "vLLM loads a model from a folder or a hub when it starts",
}
"""The endpoints that vLLM cannot answer, and what to do instead."""

_MAX_CHAINS = 1000  # names: callers make names up
_RECORDED_AS = {"/api/embeddings": "embed"}  # limited and counted together with the newer endpoint


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request that concerns one model."""

    path: str
    body: Mapping[str, Any]
    operation: Operation
    timeout_s: float | None
    """The caller's timeout (seconds); None: none."""


class Dispatcher:
    """The vLLM half of a client: its servers and what it knows of them. All calls of the client share it."""

    def __init__(self, settings: Settings, clock: Clock | None = None, created: ProfileStore | None = None) -> None:
        """`clock`: the system's by default; `created`: the profiles file in the user's data folder by default."""
        self.settings = settings
        self.context = ClientContext(clock or SystemClock())
        self.registry = ServerRegistry(settings.vllm_urls, self.context.clock)
        self.resolver = ModelResolver(settings, created or ProfileFile(data_folder()))
        self.backends = Backends(settings, self.registry, self.resolver, self.context.notices, self.context.clock)
        self.stats = Stats(self.context.clock, model_names(settings))
        self.observers = Observers(self.stats)
        self._admission: Admission | None = None
        if settings.max_concurrent is not None:
            rates = {} if settings.vllm_limits is None else settings.rates
            self._admission = Admission(self.context.clock, settings.max_concurrent, rates, RATES)
        self._chains: dict[str, tuple[Version, tuple[Backend, ...]]] = {}

    def after_fork(self, parent: Dispatcher) -> None:
        """Take over the observers of the parent process's dispatcher, with fresh counts."""
        self.stats = parent.stats
        self.observers = parent.observers.after_fork()

    def dispatch(self, path: str, body: Mapping[str, Any] | None, timeout_s: float | None = None) -> Steps[None] | None:
        """The steps that answer a request; None: Ollama answers it (cloud models, the web tools).

        `timeout_s` is the caller's timeout (seconds): discovery, admission and waits stay within it.
        """
        body = body or {}
        known = path in FALLBACK_PATHS and body.get("model") in self._chains  # a call to this model was answered here
        if not known and self._is_for_ollama(path, body):
            return None
        operation = OPERATIONS.get(path)
        if operation is not None:
            return self.call(ModelRequest(path, body, operation, timeout_s))
        for refused, instead in REFUSED.items():
            if path == refused or path.startswith(f"{refused}/"):
                return _refuse(f"{refused} is not available on vLLM: {instead}")
        if path in CATALOG_OPERATIONS:
            return CATALOG_OPERATIONS[path](CatalogContext(path, body, self.registry, self.resolver, timeout_s))
        return None

    def locate(self, name: str, timeout_s: float | None = None) -> Steps[None]:
        """Yield one part, `{"url": base URL of the vLLM server for a model, without /v1}`."""
        path = "/api/chat"
        target = yield from self._find(self._chain(path, name)[0], path, (), None, timeout_s)
        yield {"url": target.url if target is not None else ""}

    def call(self, request: ModelRequest) -> Steps[None]:
        """Answer a request: observe, admit, then for each backend and each of its servers, run the operation."""
        record, progress = self._record(request), Progress()
        state = CallState(request.path, request.body, request.timeout_s, record, progress)
        admission = self._admission if record.operation in RATES else None
        contexts = None
        self._notify("started", record)
        try:
            if self.observers.with_context:
                contexts = Contexts(self.observers.with_context, record)
            if admission is not None:
                yield from admission.acquire(record, request.timeout_s)
                state.admitted = True
            state.admitted_at = self.context.clock.ticks()
            chain = FallbackChain(self._chain(request.path, record.model), state)
            for position, backend in enumerate(chain.backends):
                attempts = Attempts(backend, state, self.registry, self.context, backend is chain.backends[-1])
                try:
                    while True:
                        target = yield from self._next_target(attempts)
                        answered = False
                        try:
                            yield from self._operate(request.operation, backend, target, state, contexts)
                            answered = True
                            return
                        except GeneratorExit:  # the caller closed the call, possibly after a part of the answer
                            answered = progress.first_token is not None
                            raise
                        except Exception as error:
                            if not attempts.continues_after(target.server, error):
                                raise
                        finally:
                            self.registry.end_request(target.server, succeeded=answered)
                except Exception as error:
                    final = chain.error_after(position, error)
                    if final is not None:
                        raise final from None
        except GeneratorExit:  # the caller closed or cancelled the call
            record.error = None if progress.done else CANCELLED
            raise
        except Exception as error:
            record.error = classify(error, delivered=progress.delivered).kind
            raise
        finally:
            self._end(state, contexts)

    def _chain(self, path: str, name: str) -> tuple[Backend, ...]:
        """The backends of a model: computed once, and again when a created profile changes."""
        if not name.strip():
            raise model_required(path)
        version = self.resolver.store.version
        known = self._chains.get(name)
        if known is not None and known[0] == version:
            return known[1]
        chain = self.backends.chain(name)
        if len(name) <= MAX_CACHED_LENGTH:
            if len(self._chains) >= _MAX_CHAINS:
                self._chains.clear()
            self._chains[name] = version, chain
        return chain

    def _next_target(self, attempts: Attempts) -> Steps[Target]:
        """Begin the next attempt. Waits before the servers get another round. Raises if no server is left."""
        backend, state = attempts.backend, attempts.state
        while True:
            target = None
            try:
                left = None if state.timeout_s is None else attempts.seconds_left()
                target = yield from self._find(backend, state.path, attempts.tried, state.admitted_at, left)
            except Exception as error:
                if not attempts.continues_without_server(error):
                    raise
            if target is not None:
                if attempts.tried:
                    attempts.log_failover(target.server)
                attempts.tried.append(target.server)
                state.progress.first_token = None  # of an earlier attempt
                if self.registry.begin_request(target.server):
                    return target
                attempts.circuit_refused(target.server)
                continue
            seconds = attempts.next_wait()
            if seconds is None:
                raise attempts.final_error()
            yield Sleep(seconds)
            attempts.start_round()

    def _find(
        self, backend: Backend, path: str, tried: Sequence[Server], since: int | None, left_s: float | None
    ) -> Steps[Target | None]:
        """The server of a backend for the next attempt; None: none is left beside those that were tried."""
        if backend.server is not None:
            return self.backends.only_target(backend, tried)
        target = yield from self.registry.find(backend.served, tried, since, left_s)
        if target is None and not tried:
            raise self.backends.not_served(path, backend)
        return target

    def _operate(
        self, operation: Operation, backend: Backend, target: Target, state: CallState, contexts: Contexts | None
    ) -> Steps[None]:
        """The steps of the operation at a server."""
        provider, record = backend.provider, state.record
        record.provider, record.served = provider, target.card.id
        record.answered_by = target.server.url if provider == VLLM else provider
        call = Call(
            state.path,
            state.body,
            target,
            backend.profile,
            self.context,
            record.started,
            state.progress,
            from_provider=provider not in (VLLM, OLLAMA),
        )
        if provider == OLLAMA:
            steps = passthrough(call)
        elif call.from_provider:
            settings = self.settings.providers[provider]
            steps = intercept(operation(call), ProviderAdapter(settings, provider, call.notice))
        else:
            steps = operation(call)
        return steps if contexts is None else intercept(steps, contexts)

    def _record(self, request: ModelRequest) -> CallRecord:
        return CallRecord(
            operation=_RECORDED_AS.get(request.path) or request.path.rpartition("/")[2],
            model=str(request.body.get("model", "")),
            started=self.context.clock.ticks(),
            streamed=bool(request.body.get("stream")),
        )

    def _end(self, state: CallState, contexts: Contexts | None) -> None:
        """End a call, whatever its result."""
        if state.admitted and self._admission is not None:
            self._admission.release()
        if contexts is not None:
            contexts.exit()
        record, progress = state.record, state.progress
        record.waiting = False
        record.ended = self.context.clock.ticks()
        record.first_token = progress.first_token
        record.tokens_in, record.tokens_out = progress.tokens_in, progress.tokens_out
        self._notify("ended", record)

    def _notify(self, event: Literal["started", "ended"], record: CallRecord) -> None:
        """Notify the observers. An observer that raises is logged and does not break the call."""
        for observer in self.observers.all:
            try:
                if event == "started":
                    observer.started(record)
                else:
                    observer.ended(record)
            except Exception as error:
                log_decision("observer failed", f"{type(error).__name__}: {error}", observer=type(observer).__name__)

    def _is_for_ollama(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether a request concerns a cloud model for which the settings list no fallbacks."""
        model = str(body.get("model", ""))
        if not (is_cloud(model) or is_cloud(str(body.get("source", ""))) or is_cloud(str(body.get("from", "")))):
            return False
        return path not in FALLBACK_PATHS or not self.backends.fallbacks(model)


def _refuse(text: str) -> Steps[None]:
    yield from ()  # a generator, so that a stream raises when the caller reads it
    raise response_error(text, 501)
