"""A span and metrics for each call, in OpenTelemetry's semantic conventions for generative AI, version 1.41.

    client.observe(OpenTelemetry())

Version 1.41 is the last version of the conventions that includes generative AI. The successor project
(open-telemetry/semantic-conventions-genai) has not released a version.
The parent of a call's span is the span that is current when the call starts. The call's span is current while the
library works on the call, so it is the parent of the spans of HTTP requests, and log lines carry its identifier. It is
not current while the caller handles a part of a stream. No span contains a prompt or an answer.
Only opentelemetry-api is required. Without an OpenTelemetry SDK nothing is recorded.
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

from .telemetry.call_record import CANCELLED, CallRecord
from .telemetry.stats import DURATION_BUCKETS, TOKEN_BUCKETS, ModelLabels, encodable

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

OPERATIONS = {"chat": "chat", "generate": "text_completion", "embed": "embeddings"}
"""The operation names of the conventions, by Ollama's name. Other operations keep Ollama's name."""

Attributes = dict[str, str | int | float | bool]


class OpenTelemetry:
    """An observer that records a span and metrics for each call.

    `error.type` is the kind of failure (servers/failures.py), or `_OTHER` for an unclassified failure. A cancelled call
    has no `error.type`; it has the attribute `ollama_compat.cancelled`. The numbers of retries and failovers are
    attributes of the span if they are above 0.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Create the instruments. The default providers are the global ones."""
        self._tracer = get_tracer("ollama_compat", tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        meter = get_meter("ollama_compat", meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a call.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time from the start of a streamed call to its first token.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of tokens in the prompt or the answer of a call.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._spans: dict[CallRecord, Span] = {}
        self._labels = ModelLabels()
        self._process = os.getpid()

    def started(self, record: CallRecord) -> None:
        """Start a span."""
        attributes = _request_attributes(record, encodable(record.model))
        name = f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}".rstrip()
        if record.streamed:
            attributes["gen_ai.request.stream"] = True
        self._spans[record] = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    @contextmanager
    def call_context(self, record: CallRecord) -> Iterator[None]:
        """Make the span of the call the current span."""
        span = self._spans.get(record)
        if span is None:
            yield
            return
        token = attach(set_span_in_context(span))
        try:
            yield
        finally:
            detach(token)

    def ended(self, record: CallRecord) -> None:
        """End the span and record the metrics."""
        span = self._spans.pop(record, None)
        if span is None:
            return
        response = _response_attributes(record)
        span.set_attributes({**response, **_usage_attributes(record)})
        if "error.type" in response:
            span.set_status(Status(StatusCode.ERROR))
        span.end()
        # The metrics keep every attribute value that they have seen, and callers may invent model names.
        model = self._labels.label(record.model, answered=record.was_answered)
        attributes = {**_request_attributes(record, model), **response}
        self._duration.record(record.seconds, attributes)
        attributes.pop("error.type", None)
        first_token = record.seconds_to_first_token
        if record.streamed and first_token is not None:
            self._first_chunk.record(first_token, attributes)
        for tokens, token_type in ((record.tokens_in, "input"), (record.tokens_out, "output")):
            if tokens:
                self._tokens.record(tokens, {**attributes, "gen_ai.token.type": token_type})

    def after_fork(self) -> Self:
        """Return this observer, without the spans of the parent's calls. All clients of the child may share it."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._spans = {}
        return self


def _request_attributes(record: CallRecord, model: str) -> Attributes:
    """The attributes that are known when a call starts."""
    return {
        "gen_ai.operation.name": OPERATIONS.get(record.operation, record.operation),
        "gen_ai.request.model": model,
    }


def _response_attributes(record: CallRecord) -> Attributes:
    """The attributes that are known when a call has ended."""
    attributes: Attributes = {"gen_ai.provider.name": record.provider}
    if record.served is not None:
        attributes["gen_ai.response.model"] = record.served
    address, port = _address(record.answered_by or "")
    if address is not None:
        attributes |= {"server.address": address, "server.port": port}
    if record.error == CANCELLED:
        attributes["ollama_compat.cancelled"] = True
    elif record.error is not None:
        attributes["error.type"] = "_OTHER" if record.error == "other" else record.error
    return attributes


def _usage_attributes(record: CallRecord) -> Attributes:
    """The attributes of an ended call that belong to its span and not to the metrics."""
    attributes: Attributes = {}
    first_token = record.seconds_to_first_token
    if record.streamed and first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = first_token
    for name, number in (
        ("gen_ai.usage.input_tokens", record.tokens_in),
        ("gen_ai.usage.output_tokens", record.tokens_out),
        ("ollama_compat.retries", record.retries),
        ("ollama_compat.failovers", record.failovers),
    ):
        if number:
            attributes[name] = number
    return attributes


@lru_cache(maxsize=100)
def _address(url: str) -> tuple[str | None, int]:
    """Host and port of a URL. The host is None if `url` is the name of a backend."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
