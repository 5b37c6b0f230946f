"""The files of Prometheus and Grafana for docker-compose.yml: scrape targets, alerts, dashboard. Pure.

Panels and alerts are rows. vLLM's metrics are those of 0.32 (vllm/v1/metrics/loggers.py); the HTTP metrics are those of
its instrumentator. The label `server` of each metric is the name of the server's service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .. import container
from ..router import METRICS_PORT
from .auxiliary import ROUTER

JOB = "vllm"
_SERVER = 'server=~"$server"'
_RANGE = "$__rate_interval"
_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the dashboard. `queries`: PromQL -> legend, with labels in {{}}."""

    title: str
    unit: str
    """Grafana's name of the unit: short, percentunit, s, reqps, …"""
    queries: Mapping[str, str]
    meaning: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert."""

    name: str
    expr: str
    minutes: int
    """How long the expression has to be true before the alert fires."""
    severity: str
    summary: str


def _quantiles(metric: str, *quantiles: float) -> dict[str, str]:
    rate = f"sum by (server, le) (rate({metric}_bucket{{{_SERVER}}}[{_RANGE}]))"
    return {
        f"histogram_quantile({quantile}, {rate})": f"{{{{server}}}} p{round(quantile * 100)}" for quantile in quantiles
    }


def _rate(metric: str, by: str = "server", having: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_SERVER}{having}}}[{_RANGE}]))"


PANELS = (
    Panel(
        "Requests running",
        "short",
        {f"sum by (server) (vllm:num_requests_running{{{_SERVER}}})": "{{server}}"},
        "Sequences in progress.",
    ),
    Panel(
        "Requests waiting",
        "short",
        {f"sum by (server) (vllm:num_requests_waiting{{{_SERVER}}})": "{{server}}"},
        "A lasting queue: the server or its KV cache is too small.",
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        {f"max by (server) (vllm:kv_cache_usage_perc{{{_SERVER}}})": "{{server}}"},
        "Near 100 %, sequences wait or are preempted.",
    ),
    Panel(
        "Prefix cache hits",
        "percentunit",
        {f"{_rate('vllm:prefix_cache_hits_total')} / {_rate('vllm:prefix_cache_queries_total')}": "{{server}}"},
        "The share of prompt tokens that were found in the KV cache.",
    ),
    Panel("Prompt tokens per second", "short", {_rate("vllm:prompt_tokens_total"): "{{server}}"}, "Input tokens."),
    Panel(
        "Generated tokens per second",
        "short",
        {_rate("vllm:generation_tokens_total"): "{{server}}"},
        "Output tokens.",
    ),
    Panel(
        "Time to first token",
        "s",
        _quantiles("vllm:time_to_first_token_seconds", 0.5, 0.95),
        "From a request's arrival to its first token.",
    ),
    Panel(
        "Time between tokens",
        "s",
        _quantiles("vllm:inter_token_latency_seconds", 0.5, 0.95),
        "Between two tokens of one answer.",
    ),
    Panel(
        "Whole requests",
        "s",
        _quantiles("vllm:e2e_request_latency_seconds", 0.5, 0.95),
        "From a request's arrival to its end.",
    ),
    Panel(
        "Time in the queue",
        "s",
        _quantiles("vllm:request_queue_time_seconds", 0.5, 0.95),
        "The time before a request is processed.",
    ),
    Panel(
        "Preemptions",
        "ops",
        {_rate("vllm:num_preemptions_total"): "{{server}}"},
        "Sequences that were stopped because the KV cache was full. vLLM recomputes them.",
    ),
    Panel(
        "Requests ended, by reason",
        "reqps",
        {_rate("vllm:request_success_total", "server, finished_reason"): "{{server}} {{finished_reason}}"},
        "stop, length, abort (the client disconnected), error (of vLLM).",
    ),
    Panel(
        "HTTP errors",
        "reqps",
        {_rate("http_requests_total", "server, status", ', status=~"4xx|5xx"'): "{{server}} {{status}}"},
        "4xx: errors in the request. 5xx: errors of the server.",
    ),
    Panel(
        "Replicas that the router uses",
        "short",
        {"sum(vllm_router_worker_health)": "healthy"},
        "For the profile scale.",
    ),
)

ALERTS = (
    Alert(
        "VllmServerDown",
        f'up{{job="{JOB}"}} == 0 and max_over_time(up{{job="{JOB}"}}[1h]) == 1',
        2,
        "critical",
        "{{ $labels.server }} does not answer any more",
    ),
    Alert(
        "VllmServerGone",
        f'(up{{job="{JOB}"}} offset 15m) unless on (server) up{{job="{JOB}"}}',
        2,
        "critical",
        "{{ $labels.server }} existed 15 minutes ago and is gone",
    ),
    Alert(
        "VllmServerStuck",
        "sum by (server) (vllm:num_requests_running) > 0 and sum by (server) (rate(vllm:generation_tokens_total[5m]))"
        " + sum by (server) (rate(vllm:prompt_tokens_total[5m])) == 0",
        5,
        "critical",
        "{{ $labels.server }} has requests but generates no tokens",
    ),
    Alert(
        "VllmServerErrors",
        'sum by (server) (rate(http_requests_total{job="vllm", status="5xx"}[5m]))'
        ' / sum by (server) (rate(http_requests_total{job="vllm"}[5m])) > 0.01',
        5,
        "critical",
        "{{ $labels.server }} fails {{ $value | humanizePercentage }} of its requests",
    ),
    Alert(
        "VllmRequestsWait",
        "sum by (server) (vllm:num_requests_waiting) > 10",
        10,
        "warning",
        "{{ $value }} requests wait at {{ $labels.server }}",
    ),
    Alert(
        "VllmKvCacheFull",
        "max by (server) (vllm:kv_cache_usage_perc) > 0.95",
        10,
        "warning",
        "The KV cache of {{ $labels.server }} is {{ $value | humanizePercentage }} full",
    ),
    Alert(
        "VllmPreempts",
        "sum by (server) (rate(vllm:num_preemptions_total[10m])) > 0.1",
        10,
        "warning",
        "{{ $labels.server }} preempts sequences because its KV cache is full",
    ),
    Alert(
        "VllmSlowFirstToken",
        "histogram_quantile(0.95, sum by (server, le) (rate(vllm:time_to_first_token_seconds_bucket[10m]))) > 10",
        10,
        "warning",
        "The first token of {{ $labels.server }} takes {{ $value | humanizeDuration }} (p95)",
    ),
    Alert(
        "VllmRouterWorkerUnhealthy",
        "vllm_router_worker_health == 0",
        2,
        "warning",
        "The router sends no calls to {{ $labels.worker }}",
    ),
)

_SERVICE_JOB = """\
# The metrics of a service that calls ollama_compat.prometheus.register and serves them on port 9100 of this machine:
# - job_name: ollama-compat
#   static_configs:
#     - targets: [host.docker.internal:9100]
"""


def files(servers: Sequence[str], head: str) -> Mapping[str, str]:
    """Every file of monitoring/: path -> text. `servers`: the services' names; `head`: the YAML files' first line."""
    return {
        "monitoring/prometheus.yml": f"{head}\n{_yaml(_prometheus(servers))}{_SERVICE_JOB}",
        "monitoring/alerts.yml": f"{head}\n{_yaml(_alerts())}",
        "monitoring/grafana/provisioning/datasources/prometheus.yml": f"{head}\n{_yaml(_datasources())}",
        "monitoring/grafana/provisioning/dashboards/vllm.yml": f"{head}\n{_yaml(_providers())}",
        "monitoring/grafana/dashboards/vllm.json": json.dumps(_dashboard(), indent=2) + "\n",
    }


def _prometheus(servers: Sequence[str]) -> dict[str, Any]:
    """The configuration of Prometheus. DNS discovery finds only running servers, and each replica separately."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["/etc/prometheus/alerts.yml"],
        "scrape_configs": [
            _looked_up(JOB, list(servers), container.PORT),
            _looked_up(ROUTER, [ROUTER], METRICS_PORT),
        ],
    }


def _looked_up(job: str, names: list[str], port: int) -> dict[str, Any]:
    return {
        "job_name": job,
        "dns_sd_configs": [{"names": names, "type": "A", "port": port, "refresh_interval": "15s"}],
        "relabel_configs": [{"source_labels": ["__meta_dns_name"], "target_label": "server"}],
    }


def _alerts() -> dict[str, Any]:
    rules = [
        {
            "alert": row.name,
            "expr": row.expr,
            "for": f"{row.minutes}m",
            "labels": {"severity": row.severity},
            "annotations": {"summary": row.summary},
        }
        for row in ALERTS
    ]
    return {"groups": [{"name": JOB, "rules": rules}]}


def _datasources() -> dict[str, Any]:
    source = {
        "name": "Prometheus",
        "uid": _DATASOURCE["uid"],
        "type": _DATASOURCE["type"],
        "access": "proxy",
        "url": "http://prometheus:9090",
        "isDefault": True,
        "jsonData": {"timeInterval": "15s"},
    }
    return {"apiVersion": 1, "datasources": [source]}


def _providers() -> dict[str, Any]:
    provider = {
        "name": "vLLM",
        "type": "file",
        "allowUiUpdates": True,
        "options": {"path": "/etc/grafana/dashboards"},
    }
    return {"apiVersion": 1, "providers": [provider]}


def _dashboard() -> dict[str, Any]:
    return {
        "uid": "vllm",
        "title": "vLLM",
        "tags": ["vllm"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_server_choice()]},
        "panels": [_panel(place, row) for place, row in enumerate(PANELS)],
    }


def _server_choice() -> dict[str, Any]:
    query = f'label_values(up{{job="{JOB}"}}, server)'
    return {
        "name": "server",
        "label": "Server",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": "server"},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(place: int, row: Panel) -> dict[str, Any]:
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": row.title,
        "description": row.meaning,
        "datasource": _DATASOURCE,
        "gridPos": {"x": 12 * (place % 2), "y": 8 * (place // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": row.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend, "datasource": _DATASOURCE}
            for number, (expr, legend) in enumerate(row.queries.items())
        ],
    }


def _yaml(value: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, width=200)
    return text
