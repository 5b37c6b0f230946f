"""Adapts the requests of an operation to a provider, and the provider's replies to vLLM's format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import MalformedReply
from ..mapping.errors import elsewhere, refusal, response_error
from ..settings import Provider
from ..steps import Interceptor, NextEvent, OpenStream, Reply, Request, Send, Step
from .dialects import Dialect
from .request import adapted, dialect_of
from .response import Reading, refused


class ProviderAdapter(Interceptor):
    """Sees the steps of one operation."""

    def __init__(self, provider: Provider, name: str, notice: Callable[..., None]) -> None:
        """`notice` logs a warning once: `Call.notice`."""
        self._provider, self._name, self._notice = provider, name, notice
        self._dialect = dialect_of(provider)
        self._reading = Reading()

    def step(self, step: Step) -> Step | Reply:
        """A request in the provider's format; the 404 of a server without the endpoint, if the provider has none."""
        if not isinstance(step, (Send, OpenStream)):
            return step
        self._reading = Reading()
        if not self._dialect.everything and step.request.path not in self._dialect.endpoints:
            return Reply(404, b'{"detail":"Not Found"}')
        return replace(step, request=_rewritten(step.request, self._provider, self._name, self._dialect, self._notice))

    def outcome(self, step: Step, outcome: Any, /) -> Any:
        """A reply or an event in vLLM's format."""
        problem = None
        if isinstance(outcome, Reply):
            outcome = refused(outcome)
            problem = _denied(self._provider, self._name, outcome.status, outcome.body)
        elif isinstance(step, NextEvent) and outcome is not None:
            outcome = self._reading.event(outcome)
            problem = _denied(self._provider, self._name, self._reading.status, outcome)
            _tell(self._reading, self._name, self._notice)
        if problem is not None:
            raise problem
        return outcome

    def error(self, error: Exception) -> Exception:
        """The error with the place to look at."""
        if not isinstance(error, MalformedReply):
            return error
        return elsewhere(error, f"Please check base_url in [providers.{self._name}]: {self._provider.base_url}")


def _tell(reading: Reading, name: str, notice: Callable[..., None]) -> None:
    """Warn of what was odd about an event."""
    for what in reading.told:
        notice("provider is odd", f"{name} {what}", "provider %(provider)s sent %(what)s", provider=name, what=what)
    reading.told.clear()


def _rewritten(
    request: Request, provider: Provider, name: str, dialect: Dialect, notice: Callable[..., None]
) -> Request:
    base, path = _place(provider.base_url.rstrip("/"), request.path, dialect)
    if request.payload is None:
        return replace(request, base=base, path=path, credential=name)
    asked = str(request.payload.get("model", ""))
    payload, lost = adapted(request.payload, request.path, dialect, provider.models.get(asked, asked))
    for what in lost:
        notice(
            "provider takes less",
            f"{name} {what}",
            "provider %(provider)s does not take %(what)s",
            provider=name,
            what=what,
        )
    return replace(request, base=base, path=path, payload=payload, credential=name)


def _place(base: str, path: str, dialect: Dialect) -> tuple[str, str]:
    """Base URL and path of a request: `/v1` stands for whatever path the provider has in front of its endpoints."""
    if not urlsplit(base).path:
        base += dialect.root
    if base.endswith("/v1"):
        return base.removesuffix("/v1"), path
    return base, path if dialect.everything else path.removeprefix("/v1")


def _denied(provider: Provider, name: str, status: int, body: bytes) -> Exception | None:
    """A refusal for the key, the account or the model's name: whose it is, and where to look."""
    if status not in _UNSAID:
        return None
    told = refusal(provider.base_url, status, body)
    if told.endpoint_missing:
        return None
    if status == 404:
        look = f"check the model's name, and models and base_url in [providers.{name}]"
    else:
        look = f"check the key in {provider.api_key_env}" if provider.api_key_env else _NO_KEY
    return response_error(f"{told.message or _UNSAID[status]} (provider {name}, {provider.base_url}: {look})", status)


_NO_KEY = "check the key: no api_key_env is set"
_UNSAID = {401: "unauthorized", 402: "payment required", 403: "forbidden", 404: "not found"}
"""The statuses that are told with where to look, and what they mean where the provider says nothing."""
