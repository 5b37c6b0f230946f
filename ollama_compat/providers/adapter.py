"""Runs an operation against a provider instead of a vLLM server.

`ProviderAdapter` intercepts the steps of an operation (steps.intercept): it converts the requests (request.py) and the
provider's replies (response.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..exceptions import MalformedReply
from ..mapping.errors import with_advice
from ..mapping.ollama_errors import response_error
from ..mapping.refusals import refusal
from ..steps import Interceptor, NextEvent, OpenStream, Reply, Request, Send, Step
from .dialects import dialect_of
from .request import converted, location
from .response import StreamNormalizer, normalized

if TYPE_CHECKING:
    from ..settings_models import Provider

_HELP_STATUSES = {401: "unauthorized", 402: "payment required", 403: "forbidden", 404: "not found"}
"""The statuses whose errors name the setting to check, and the message when the provider sends none."""


class ProviderAdapter(Interceptor):
    """Converts the requests and replies of one call. It does no I/O.

    `name` is the provider's name in the settings. `notice` writes a warning once per subject, as `Call.notice` does.
    An instance holds the state of the stream that the call reads, so each call needs its own.
    """

    def __init__(self, provider: Provider, name: str, notice: Callable[..., None]) -> None:
        """Determine the provider's dialect."""
        self._provider = provider
        self._name = name
        self._notice = notice
        self._dialect = dialect_of(provider.base_url, provider.dialect)
        self._stream = StreamNormalizer()

    def step(self, step: Step) -> Step | Reply:
        """The step with the request for the provider, or the reply that answers it."""
        if not isinstance(step, (Send, OpenStream)):
            return step
        request = self.request(step.request)
        return request if isinstance(request, Reply) else replace(step, request=request)

    def outcome(self, step: Step, outcome: Any, /) -> Any:
        """The reply or the event in vLLM's shape."""
        if isinstance(outcome, Reply):
            return self.reply(outcome)
        if isinstance(step, NextEvent) and outcome is not None:
            return self.event(outcome)
        return outcome

    def request(self, request: Request) -> Request | Reply:
        """The request for the provider, or the 404 reply of an endpoint that the provider does not have."""
        dialect, provider = self._dialect, self._provider
        if not dialect.supports(request.path):
            return Reply(404, b'{"detail":"Not Found"}')
        self._stream = StreamNormalizer()
        base, path = location(provider.base_url, request.path, dialect)
        if request.payload is None:
            return replace(request, base=base, path=path, credential=self._name)
        model = str(request.payload.get("model", ""))
        payload, lost = converted(request.payload, request.path, dialect, provider.models.get(model, model))
        for what in lost:
            self._warn("unsupported by provider", what, "provider %(provider)s does not support %(what)s")
        return replace(request, base=base, path=path, payload=payload, credential=self._name)

    def reply(self, reply: Reply) -> Reply:
        """The reply in vLLM's shape.

        Raises `ResponseError` for the statuses 401, 402 and 403, and for 404 unless the endpoint is missing.
        """
        reply = normalized(reply)
        self._check_access(reply.status, reply.body)
        return reply

    def event(self, data: bytes) -> bytes:
        """The data of a stream event in vLLM's shape.

        Raises `ResponseError` for an error event with a status for which `reply` raises.
        """
        data = self._stream.event(data)
        for what in self._stream.warnings:
            self._warn("unexpected provider reply", what, "provider %(provider)s sent %(what)s")
        self._stream.warnings.clear()
        self._check_access(self._stream.status, data)
        return data

    def error(self, error: Exception) -> Exception:
        """The error for the caller: a `MalformedReply` names the provider's `base_url`; other errors stay unchanged."""
        if not isinstance(error, MalformedReply):
            return error
        return with_advice(error, f"Please check base_url in [providers.{self._name}]: {self._provider.base_url}")

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
