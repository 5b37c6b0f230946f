"""The dashboard and the alerts ask for metrics that a real vLLM has."""

from __future__ import annotations

import re

import httpx
import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningServer
from vllm_launch.compose.monitoring import ALERTS, PANELS

QUERIES = [*(row.expr for row in ALERTS), *(expr for row in PANELS for expr in row.queries)]
# Prometheus' own labels, and the router's metrics.
_ADDED = {"server", "job"}
_NOT_OF_VLLM = re.compile(r"up$|vllm_router_")


def test_every_metric_and_label_of_the_dashboard_and_the_alerts_is_there(chat_server: RunningServer) -> None:
    ask = {"model": chat_server.model, "prompt": "One, two,", "max_tokens": 4}
    httpx.post(f"{chat_server.url}/v1/completions", json=ask, timeout=60).raise_for_status()
    httpx.post(f"{chat_server.url}/v1/completions", json={"model": "none", "prompt": "x"}, timeout=60)
    text = httpx.get(f"{chat_server.url}/metrics").text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    wanted = [selector for query in QUERIES for selector in selectors(query)]
    assert [name for name, _ in wanted if name not in labels] == []
    assert [(name, label) for name, used in wanted for label in used - labels[name] - _ADDED] == []


def test_errors_are_told_by_classes_of_status(chat_server: RunningServer) -> None:
    httpx.post(f"{chat_server.url}/v1/completions", json={"model": "none", "prompt": "x"}, timeout=60)
    assert re.search(r'http_requests_total\{[^}]*status="4xx"', httpx.get(f"{chat_server.url}/metrics").text)


def selectors(query: str) -> list[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it chooses or is grouped by."""
    text = query.replace("$__rate_interval", "1m")
    promql_parser.parse(text)  # so that what is taken apart here is PromQL
    grouped = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", text) for label in by.split(",")}
    found = re.findall(r"\b((?:vllm[:_]|http_|up\b)[\w:]*)(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', text))
    chosen = [(name, set(re.findall(r"(\w+)(?==|!)", inside))) for name, inside in found]
    return [(name, labels | grouped) for name, labels in chosen if not _NOT_OF_VLLM.match(name)]
