"""One span for each call, and metrics, in the semantic conventions for generative AI."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from ollama_compat import otel
from ollama_compat.otel import OpenTelemetry
from ollama_compat.telemetry.call_record import CANCELLED, CallRecord
from ollama_compat.telemetry.stats import (
    DURATION_BUCKETS,
    MAX_MODELS,
    MAX_UNANSWERED_MODELS,
    OTHER_MODELS,
    TOKEN_BUCKETS,
)
from tests.play import SECOND

DURATION = gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION
FIRST_CHUNK = gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK
USAGE = gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE


class Backend:
    """An OpenTelemetry SDK that keeps all spans and metrics in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = OpenTelemetry(self.tracers, MeterProvider([self.reader]))

    def call(self, operation: str = "chat", model: str = "exaone", error: str | None = None, **fields: Any) -> None:
        record = CallRecord(operation, model, SECOND, **fields)
        self.observer.started(record)
        record.ended, record.error = 3 * SECOND, error
        self.observer.ended(record)

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        metrics = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in metrics for point in metric.data.data_points]  # type: ignore[misc]


@pytest.fixture
def backend() -> Backend:
    return Backend()


ANSWER: dict[str, Any] = {
    "streamed": True,
    "first_token": 2 * SECOND,
    "answered_by": "http://gpu:8001",
    "served": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ",
    "tokens_in": 10,
    "tokens_out": 20,
}
SERVER = {
    gen_ai.GEN_AI_OPERATION_NAME: "chat",
    gen_ai.GEN_AI_REQUEST_MODEL: "exaone",
    gen_ai.GEN_AI_PROVIDER_NAME: "vllm",
    gen_ai.GEN_AI_RESPONSE_MODEL: "LGAI-EXAONE/EXAONE-4.0-32B-AWQ",
    server_attributes.SERVER_ADDRESS: "gpu",
    server_attributes.SERVER_PORT: 8001,
}


# Spans


def test_call_creates_one_client_span(backend: Backend) -> None:
    backend.call(**ANSWER)
    span = backend.span
    assert (span.name, span.kind, span.status.status_code) == ("chat exaone", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        **SERVER,
        gen_ai.GEN_AI_REQUEST_STREAM: True,
        gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: 1.0,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: 10,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: 20,
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.41.0"


def test_span_has_no_first_chunk_when_call_is_not_streamed(backend: Backend) -> None:
    backend.call(**{**ANSWER, "streamed": False})
    attributes = backend.span.attributes or {}
    assert not {gen_ai.GEN_AI_REQUEST_STREAM, gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK} & set(attributes)


@pytest.mark.parametrize(
    ("operation", "name"),
    [("chat", "chat"), ("generate", "text_completion"), ("embed", "embeddings"), ("show", "show")],
)
def test_operation_name_is_that_of_the_conventions_if_they_define_one(
    backend: Backend, operation: str, name: str
) -> None:
    backend.call(operation)
    assert backend.span.name == f"{name} exaone"
    assert (backend.span.attributes or {})[gen_ai.GEN_AI_OPERATION_NAME] == name


def test_span_name_is_the_operation_when_model_is_empty(backend: Backend) -> None:
    backend.call(model="")
    assert backend.span.name == "chat"


def test_characters_that_cannot_be_encoded_are_replaced_in_span(backend: Backend) -> None:
    backend.call(model="half \ud800")
    assert backend.span.name == "chat half ?"
    assert (backend.span.attributes or {})[gen_ai.GEN_AI_REQUEST_MODEL] == "half ?"


def test_parent_is_the_current_span_when_the_call_starts(backend: Backend) -> None:
    tracer = backend.tracers.get_tracer("the service")
    record = CallRecord("chat", "exaone", 0)
    with tracer.start_as_current_span("request") as parent:
        backend.observer.started(record)
    with tracer.start_as_current_span("another"):
        backend.observer.ended(record)
    span = next(span for span in backend.exporter.get_finished_spans() if span.name == "chat exaone")
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id


def test_error_type_is_the_kind_of_failure(backend: Backend) -> None:
    backend.call(error="timeout")
    assert backend.span.status.status_code == StatusCode.ERROR
    assert (backend.span.attributes or {})[error_attributes.ERROR_TYPE] == "timeout"


def test_error_type_of_unclassified_failure_is_other(backend: Backend) -> None:
    backend.call(error="other")
    assert (backend.span.attributes or {})[error_attributes.ERROR_TYPE] == "_OTHER"


def test_cancelled_call_is_not_an_error(backend: Backend) -> None:
    backend.call(error=CANCELLED)
    assert backend.span.status.status_code == StatusCode.UNSET
    assert error_attributes.ERROR_TYPE not in (backend.span.attributes or {})
    assert (backend.span.attributes or {})["ollama_compat.cancelled"] is True


def test_span_has_numbers_of_retries_and_failovers(backend: Backend) -> None:
    backend.call(retries=1, failovers=2)
    attributes = backend.span.attributes or {}
    assert (attributes["ollama_compat.retries"], attributes["ollama_compat.failovers"]) == (1, 2)


@pytest.mark.parametrize(
    ("answered_by", "provider", "address", "port"),
    [
        ("http://gpu/vllm", "vllm", "gpu", 80),
        ("https://api.deepseek.com", "deepseek", "api.deepseek.com", 443),
        ("http://[::1]:8001", "vllm", "::1", 8001),
        ("ollama", "ollama", None, None),
        (None, "vllm", None, None),
    ],
)
def test_span_has_provider_and_address_of_answering_server(
    backend: Backend, answered_by: str | None, provider: str, address: str | None, port: int | None
) -> None:
    backend.call(answered_by=answered_by, provider=provider)
    attributes = backend.span.attributes or {}
    assert attributes[gen_ai.GEN_AI_PROVIDER_NAME] == provider
    assert attributes.get(server_attributes.SERVER_ADDRESS) == address
    assert attributes.get(server_attributes.SERVER_PORT) == port


# Metrics


def test_duration_of_call_is_recorded(backend: Backend) -> None:
    backend.call(**ANSWER)
    (point,) = backend.points(DURATION)
    assert dict(point.attributes or {}) == SERVER
    assert (point.count, point.sum, point.explicit_bounds) == (1, 2.0, DURATION_BUCKETS)


def test_only_duration_metric_has_error_type(backend: Backend) -> None:
    backend.call(**ANSWER, error="timeout")
    (point,) = backend.points(DURATION)
    assert dict(point.attributes or {}) == {**SERVER, error_attributes.ERROR_TYPE: "timeout"}
    others = backend.points(FIRST_CHUNK) + backend.points(USAGE)
    assert [error_attributes.ERROR_TYPE in (point.attributes or {}) for point in others] == [False] * 3


def test_time_to_first_token_is_recorded_for_streamed_calls_only(backend: Backend) -> None:
    backend.call(**ANSWER)
    backend.call(**{**ANSWER, "streamed": False})
    backend.call(**{**ANSWER, "first_token": None})
    (point,) = backend.points(FIRST_CHUNK)
    assert dict(point.attributes or {}) == SERVER
    assert (point.count, point.sum, point.explicit_bounds) == (1, 1.0, DURATION_BUCKETS)


def test_tokens_are_recorded_by_type(backend: Backend) -> None:
    backend.call(**ANSWER)
    points = backend.points(USAGE)
    assert [(dict(point.attributes or {}), point.sum) for point in points] == [
        ({**SERVER, gen_ai.GEN_AI_TOKEN_TYPE: "input"}, 10),
        ({**SERVER, gen_ai.GEN_AI_TOKEN_TYPE: "output"}, 20),
    ]
    assert {point.explicit_bounds for point in points} == {TOKEN_BUCKETS}


def test_unknown_token_counts_are_not_recorded(backend: Backend) -> None:
    backend.call(error="timeout")
    assert backend.points(USAGE) == []


def test_number_of_models_in_metrics_is_bounded(backend: Backend) -> None:
    for number in range(MAX_MODELS + 5):
        backend.call(model=f"invented {number}")
    points = {(point.attributes or {})[gen_ai.GEN_AI_REQUEST_MODEL]: point for point in backend.points(DURATION)}
    assert len(points) == MAX_MODELS + 1
    assert points[OTHER_MODELS].count == 5
    assert backend.exporter.get_finished_spans()[-1].name == f"chat invented {MAX_MODELS + 4}"


def test_unanswered_models_do_not_displace_answered_models_in_metrics(backend: Backend) -> None:
    for number in range(MAX_MODELS):
        backend.call(model=f"invented {number}", error="not_found")
    backend.call(**ANSWER)
    points = {(point.attributes or {})[gen_ai.GEN_AI_REQUEST_MODEL]: point for point in backend.points(DURATION)}
    assert len(points) == MAX_UNANSWERED_MODELS + 2
    assert points["exaone"].count == 1
    assert points[OTHER_MODELS].count == MAX_MODELS - MAX_UNANSWERED_MODELS


# Life cycle and imports


def test_observer_records_nothing_without_sdk() -> None:
    observer, record = OpenTelemetry(), CallRecord("chat", "exaone", 0, ended=SECOND)
    observer.started(record)
    observer.ended(record)


def test_second_end_of_call_is_ignored(backend: Backend) -> None:
    record = CallRecord("chat", "exaone", 0, ended=SECOND)
    backend.observer.started(record)
    backend.observer.ended(record)
    backend.observer.ended(record)
    assert backend.span.name == "chat exaone"
    assert [point.count for point in backend.points(DURATION)] == [1]


def test_forked_child_does_not_end_spans_of_parent(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    parent_record, child_record = CallRecord("chat", "exaone", 0), CallRecord("embed", "kure", 0)
    backend.observer.started(parent_record)
    monkeypatch.setattr(otel.os, "getpid", lambda: -1)
    assert backend.observer.after_fork() is backend.observer
    backend.observer.started(child_record)
    backend.observer.after_fork()  # a second client of the same child
    backend.observer.ended(parent_record)
    backend.observer.ended(child_record)
    assert backend.span.name == "embeddings kure"


def test_import_error_names_the_package_to_install() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import ollama_compat, ollama_compat.otel"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ImportError: ollama_compat.otel needs opentelemetry-api: pip install 'ollama-compat[otel]'" in done.stderr


def test_package_does_not_import_opentelemetry() -> None:
    script = "import sys, ollama_compat, ollama_compat.telemetry.stats; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
