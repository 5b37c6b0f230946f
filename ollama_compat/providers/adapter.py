"""Runs an operation against a provider instead of a vLLM server.

`ProviderAdapter` rewrites the operation's requests (request.py) and normalises the provider's replies (response.py).
`adapt` wraps the operation's steps with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import MalformedReply
from ..mapping.errors import elsewhere, refusal, response_error
from ..settings import Provider
from ..steps import NextEvent, OpenStream, Reply, Request, Send, Steps
from .dialects import Dialect
from .request import adapted, dialect_of
from .response import Reading, refused

_HELP_STATUSES = {401: "unauthorized", 402: "payment required", 403: "forbidden", 404: "not found"}
"""The statuses whose errors name the setting to check, and the message when the provider sends none."""


class ProviderAdapter:
    """Translates between one operation and one provider. It does no I/O.

    `name` is the provider's name in the settings. `notice` is called as `Memory.notice` is.
    An instance serves one call: it holds the state of the stream that the call reads.
    """

    def __init__(self, provider: Provider, name: str, notice: Callable[..., None]) -> None:
        """Determine the provider's dialect."""
        self._provider = provider
        self._name = name
        self._notice = notice
        self._dialect = dialect_of(provider)
        self._reading = Reading()

    def request(self, request: Request) -> Request | Reply:
        """The request as the provider takes it, or the 404 reply of an endpoint that the provider lacks."""
        dialect, provider = self._dialect, self._provider
        if not dialect.everything and request.path not in dialect.endpoints:
            return Reply(404, b'{"detail":"Not Found"}')
        self._reading = Reading()
        base, path = _place(provider.base_url.rstrip("/"), request.path, dialect)
        if request.payload is None:
            return replace(request, base=base, path=path, credential=self._name)
        model = str(request.payload.get("model", ""))
        payload, lost = adapted(request.payload, request.path, dialect, provider.models.get(model, model))
        for what in lost:
            self._warn("provider takes less", what, "provider %(provider)s does not take %(what)s")
        return replace(request, base=base, path=path, payload=payload, credential=self._name)

    def reply(self, reply: Reply) -> Reply:
        """The reply in vLLM's shape.

        Raises `ResponseError` for the statuses 401, 402 and 403, and for 404 if the model is missing.
        """
        reply = refused(reply)
        self._check_access(reply.status, reply.body)
        return reply

    def event(self, data: bytes) -> bytes:
        """The data of a stream's event in vLLM's shape.

        Raises `ResponseError` for an error event with a status for which `reply` raises.
        """
        data = self._reading.event(data)
        for what in self._reading.told:
            self._warn("provider is odd", what, "provider %(provider)s sent %(what)s")
        self._reading.told.clear()
        self._check_access(self._reading.status, data)
        return data

    def error(self, error: Exception) -> Exception:
        """The error that the caller receives: a `MalformedReply` names the provider's `base_url`."""
        if not isinstance(error, MalformedReply):
            return error
        return elsewhere(error, f"Please check base_url in [providers.{self._name}]: {self._provider.base_url}")

    def _warn(self, event: str, what: str, text: str) -> None:
        self._notice(event, f"{self._name} {what}", text, provider=self._name, what=what)

    def _check_access(self, status: int, body: bytes) -> None:
        """Raise an error that names the setting to check, if the status concerns the key, the account or the model."""
        if status not in _HELP_STATUSES:
            return
        provider = self._provider
        error = refusal(provider.base_url, status, body)
        if error.endpoint_missing:
            return
        if status == 404:
            action = f"check the model's name, and models and base_url in [providers.{self._name}]"
        elif provider.api_key_env:
            action = f"check the key in {provider.api_key_env}"
        else:
            action = "check the key: no api_key_env is set"
        message = error.message or _HELP_STATUSES[status]
        raise response_error(f"{message} (provider {self._name}, {provider.base_url}: {action})", status)


def adapt(steps: Steps[None], provider: Provider, name: str, notice: Callable[..., None]) -> Steps[None]:
    """`steps`, with its requests sent to the provider `name`. `notice` is called as `Memory.notice` is."""
    adapter = ProviderAdapter(provider, name, notice)
    outcome: Any = None
    error: Exception | None = None
    try:
        while True:
            step = steps.send(outcome) if error is None else steps.throw(error)
            outcome, error = None, None
            if isinstance(step, (Send, OpenStream)):
                request = adapter.request(step.request)
                if isinstance(request, Reply):
                    outcome = request
                    continue
                step = replace(step, request=request)
            try:
                outcome = yield step
                if isinstance(outcome, Reply):
                    outcome = adapter.reply(outcome)
                elif isinstance(step, NextEvent) and outcome is not None:
                    outcome = adapter.event(outcome)
            except Exception as caught:
                outcome, error = None, caught
    except StopIteration:
        return
    except MalformedReply as malformed:
        raise adapter.error(malformed) from None
    finally:
        steps.close()


def _place(base: str, path: str, dialect: Dialect) -> tuple[str, str]:
    """Base URL and path of a request. `/v1` is replaced by the path that the provider has in front of its endpoints."""
    if not urlsplit(base).path:
        base += dialect.root
    if base.endswith("/v1"):
        return base.removesuffix("/v1"), path
    return base, path if dialect.everything else path.removeprefix("/v1")
