"""The life of a call: observe it, admit it, then try each backend, each of its servers, and run the operation there.

`Dispatcher.dispatch` finds what answers a request of the Ollama API. `Dispatcher.call` is the life of a call to one
model. Both return steps (steps.py): this file does no I/O, and `SyncDriver` or `AsyncDriver` (transport/driver.py) runs
the generator. servers/failures.py says which failure allows which attempt; nothing is repeated after the caller has
received a part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .attempts import Attempts, CallState, FallbackChain
from .call import Call, ClientContext
from .limits.admission import Admission
from .mapping.errors import response_error
from .mapping.model_names import is_cloud
from .operations import catalog, profiles
from .operations.catalog_context import CatalogContext
from .operations.chat import chat
from .operations.embed import embed, embeddings
from .operations.generate import generate
from .operations.passthrough import passthrough
from .operations.systemone import systemone
from .profiles.resolver import ModelResolver
from .profiles.store import ProfileFile, ProfileStore, data_folder
from .providers.adapter import ProviderAdapter
from .servers.backends import VLLM, Backend, Backends
from .servers.failures import classify
from .servers.registry import ServerRegistry
from .servers.server import Target
from .settings import OLLAMA, Settings, model_names
from .steps import Clock, Sleep, Steps, SystemClock, intercept
from .telemetry.call_record import CANCELLED, CallRecord
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
        self._admission = Admission(settings, self.context.clock)

    def after_fork(self, parent: Dispatcher) -> None:
        """Take over the observers of the parent process's dispatcher, with fresh counts."""
        self.stats = parent.stats
        self.observers = parent.observers.after_fork()

    def dispatch(self, path: str, body: Mapping[str, Any] | None, timeout_s: float | None = None) -> Steps[None] | None:
        """The steps that answer a request; None: Ollama answers it (cloud models, the web tools).

        `timeout_s` is the caller's timeout (seconds): discovery, admission and waits stay within it.
        """
        body = body or {}
        if self._is_for_ollama(path, body):
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
        backend = Backend(name, self.resolver.served(name), self.resolver.profile(name))
        target = yield from self.backends.find(backend, "/api/chat", left_s=timeout_s)
        yield {"url": target.url if target is not None else ""}

    def call(self, request: ModelRequest) -> Steps[None]:
        """Answer a request: observe, admit, then for each backend and each of its servers, run the operation."""
        state = CallState(request.path, request.body, request.timeout_s, self._record(request))
        admitted = False
        self.observers.notify("started", state.record)
        contexts = self.observers.contexts(state.record)
        try:
            if self._admission.limits(state.record.operation):
                yield from self._admission.acquire(state.record, request.timeout_s)
                admitted = True
            state.admitted_at = self.context.clock.ticks()
            chain = FallbackChain(self.backends.chain(state.record.model), state)
            for backend in chain:
                attempts = Attempts(backend, state, self.registry, self.context, is_last=chain.is_last)
                try:
                    while True:
                        target = yield from self._next_target(attempts, state)
                        try:
                            yield from self._operate(request.operation, backend, target, state, contexts)
                            attempts.succeeded(target.server)
                            return
                        except Exception as error:
                            attempts.failed(target.server, error)  # raises unless another server may answer
                        except GeneratorExit:
                            attempts.cancelled(target.server)
                            raise
                        finally:
                            attempts.ended(target)
                except Exception as error:
                    chain.failed(error)  # raises unless a fallback may answer
        except GeneratorExit:  # the caller closed or cancelled the call
            state.record.error = None if state.progress.done else CANCELLED
            raise
        except Exception as error:
            state.record.error = classify(error, delivered=state.progress.delivered).kind
            raise
        finally:
            if admitted:
                self._admission.release()
            if contexts is not None:
                contexts.exit()
            self._end(state)

    def _next_target(self, attempts: Attempts, state: CallState) -> Steps[Target]:
        """The server for the next attempt. Waits before the servers get another round. Raises if none is left."""
        while True:
            target = None
            try:
                target = yield from self.backends.find(
                    attempts.backend, state.path, attempts.tried, state.admitted_at, attempts.seconds_left()
                )
            except Exception as error:
                attempts.discovery_failed(error)  # raises unless a retry or a fallback may help
            if target is not None:
                if attempts.begin(target):
                    return target
                continue
            seconds = attempts.next_wait()
            if seconds is None:
                raise attempts.final_error()
            yield Sleep(seconds)
            attempts.start_round()

    def _operate(
        self, operation: Operation, backend: Backend, target: Target, state: CallState, contexts: Contexts | None
    ) -> Steps[None]:
        """The steps of the operation at a server."""
        call = Call(
            state.path,
            state.body,
            target,
            backend.profile,
            self.context,
            state.record.started,
            state.progress,
            from_provider=backend.provider not in (VLLM, OLLAMA),
        )
        if backend.provider == OLLAMA:
            steps = passthrough(call)
        elif call.from_provider:
            provider = self.settings.providers[backend.provider]
            steps = intercept(operation(call), ProviderAdapter(provider, backend.provider, call.notice))
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

    def _end(self, state: CallState) -> None:
        record, progress = state.record, state.progress
        record.waiting = False
        record.ended = self.context.clock.ticks()
        record.first_token = progress.first_token
        record.tokens_in, record.tokens_out = progress.tokens_in, progress.tokens_out
        self.observers.notify("ended", record)

    def _is_for_ollama(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether a request concerns a cloud model for which the settings list no fallbacks."""
        model = str(body.get("model", ""))
        if not (is_cloud(model) or is_cloud(str(body.get("source", ""))) or is_cloud(str(body.get("from", "")))):
            return False
        return path not in FALLBACK_PATHS or not self.backends.fallbacks(model)


def _refuse(text: str) -> Steps[None]:
    yield from ()  # a generator, so that a stream raises when the caller reads it
    raise response_error(text, 501)
