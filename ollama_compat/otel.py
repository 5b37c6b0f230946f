"""A span and metrics for each call, by OpenTelemetry's semantic conventions for generative AI, version 1.41.

    client.observe(OpenTelemetry())

That version is the last with these conventions in it; where they go on (open-telemetry/semantic-conventions-genai)
nothing is released yet. A span is a child of what is current where its call begins, and is itself current while the
call is at work: spans of its HTTP requests are its children, and its log lines name it. It is not current in between,
where the caller handles a part of a stream. Prompts and answers are in no span.
Only opentelemetry-api is needed: where a service has set up no SDK, nothing is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

try:
    from opentelemetry.context import attach, detach
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer, set_span_in_context
except ImportError as missing:
    raise ImportError("ollama_compat.otel needs opentelemetry-api: pip install 'ollama-compat[otel]'") from missing

from .telemetry.stats import CANCELLED, SECONDS, TOKENS, CallRecord, ModelNames, encodable

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

OPERATIONS = {"chat": "chat", "generate": "text_completion", "embed": "embeddings"}
"""Ollama's words for what the conventions have a word for; other operations keep theirs."""

Attributes = dict[str, str | int | float | bool]


class OpenTelemetry:
    """An observer that tells OpenTelemetry of each call.

    `error.type` is a kind of failure (guard/failures.py), `_OTHER` for what has no kind. A call that was cancelled has
    none, but the attribute `ollama_compat.cancelled`; retries and failovers are attributes where there were any.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """The providers are the global ones where none are given."""
        self._tracer = get_tracer("ollama_compat", tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        meter = get_meter("ollama_compat", meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "How long a call took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "From a streamed call's start to its first token.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of a call's prompt or answer.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._spans: dict[CallRecord, Span] = {}
        self._names = ModelNames()
        self._process = os.getpid()

    def started(self, running: CallRecord) -> None:
        """Begin a span."""
        asked = _asked(running, encodable(running.model))
        name = f"{asked['gen_ai.operation.name']} {asked['gen_ai.request.model']}".rstrip()
        if running.streamed:
            asked["gen_ai.request.stream"] = True
        self._spans[running] = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=asked)

    @contextmanager
    def call_context(self, running: CallRecord) -> Iterator[None]:
        """Its span is the current one."""
        span = self._spans.get(running)
        if span is None:
            yield
            return
        token = attach(set_span_in_context(span))
        try:
            yield
        finally:
            detach(token)

    def ended(self, running: CallRecord) -> None:
        """End the span and record the metrics."""
        span = self._spans.pop(running, None)
        if span is None:
            return
        answered = _answered(running)
        span.set_attributes({**answered, **_only_in_spans(running)})
        if "error.type" in answered:
            span.set_status(Status(StatusCode.ERROR))
        span.end()
        # Callers make model names up: metrics, unlike spans, are kept for each name.
        told = {**_asked(running, self._names.bounded(running.model, answered=running.was_answered)), **answered}
        self._duration.record(running.seconds, told)
        told.pop("error.type", None)
        first = running.seconds_to_first_token
        if running.streamed and first is not None:
            self._first_chunk.record(first, told)
        if running.tokens_in:
            self._tokens.record(running.tokens_in, {**told, "gen_ai.token.type": "input"})
        if running.tokens_out:
            self._tokens.record(running.tokens_out, {**told, "gen_ai.token.type": "output"})

    def after_fork(self) -> Self:
        """The same one, for all clients of the child that have it: its parent's calls are the parent's to tell."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._spans = {}
        return self


def _asked(running: CallRecord, model: str) -> Attributes:
    """What is known of a call at its start."""
    return {
        "gen_ai.operation.name": OPERATIONS.get(running.operation, running.operation),
        "gen_ai.request.model": model,
    }


def _answered(running: CallRecord) -> Attributes:
    """What is known of it at its end."""
    answered: Attributes = {"gen_ai.provider.name": running.provider}
    if running.served is not None:
        answered["gen_ai.response.model"] = running.served
    address, port = _address(running.answered_by or "")
    if address is not None:
        answered |= {"server.address": address, "server.port": port}
    if running.error == CANCELLED:
        answered["ollama_compat.cancelled"] = True
    elif running.error is not None:
        answered["error.type"] = "_OTHER" if running.error == "other" else running.error
    return answered


def _only_in_spans(running: CallRecord) -> Attributes:
    told: Attributes = {}
    first = running.seconds_to_first_token
    if running.streamed and first is not None:
        told["gen_ai.response.time_to_first_chunk"] = first
    for name, number in (
        ("gen_ai.usage.input_tokens", running.tokens_in),
        ("gen_ai.usage.output_tokens", running.tokens_out),
        ("ollama_compat.retries", running.retries),
        ("ollama_compat.failovers", running.failovers),
    ):
        if number:
            told[name] = number
    return told


@lru_cache(maxsize=100)
def _address(url: str) -> tuple[str | None, int]:
    """Host and port of a URL; no host where it is the name of something."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
