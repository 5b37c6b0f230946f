"""The dashboard and the alerts use metrics that a real vLLM has."""

from __future__ import annotations

import re

import httpx
import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningServer
from tests.polling import eventually
from vllm_launch.compose.monitoring import ALERTS, PANELS

QUERIES = [*(row.expr for row in ALERTS), *(expr for row in PANELS for expr in row.queries)]
# Labels that Prometheus adds, and metrics of Prometheus and the router.
_ADDED = {"server", "job"}
_OTHER_METRICS = re.compile(r"up$|vllm_router_")


def test_dashboard_and_alerts_use_existing_metrics_and_labels(chat_server: RunningServer) -> None:
    request = {"model": chat_server.model, "prompt": "One, two,", "max_tokens": 4}
    httpx.post(f"{chat_server.url}/v1/completions", json=request, timeout=300).raise_for_status()
    httpx.post(f"{chat_server.url}/v1/completions", json={"model": "none", "prompt": "x"}, timeout=300)
    wanted = [selector for query in QUERIES for selector in selectors(query)]
    # vLLM updates its metrics a moment after its reply.
    eventually(lambda: {name for name, _ in wanted} <= labels_by_metric(chat_server).keys())
    labels = labels_by_metric(chat_server)
    assert [name for name, _ in wanted if name not in labels] == []
    assert [(name, label) for name, used in wanted for label in used - labels[name] - _ADDED] == []


def test_errors_are_counted_by_class_of_status(chat_server: RunningServer) -> None:
    httpx.post(f"{chat_server.url}/v1/completions", json={"model": "none", "prompt": "x"}, timeout=300)
    assert eventually(lambda: re.search(r'http_requests_total\{[^}]*status="4xx"', metrics(chat_server)))


def metrics(server: RunningServer) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=300).text


def labels_by_metric(server: RunningServer) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics(server)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def selectors(query: str) -> list[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it selects or groups by."""
    text = query.replace("$__rate_interval", "1m")
    promql_parser.parse(text)  # raises unless the query is PromQL
    grouped = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", text) for label in by.split(",")}
    found = re.findall(r"\b((?:vllm[:_]|http_|up\b)[\w:]*)(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', text))
    chosen = [(name, set(re.findall(r"(\w+)(?==|!)", inside))) for name, inside in found]
    return [(name, labels | grouped) for name, labels in chosen if not _OTHER_METRICS.match(name)]
