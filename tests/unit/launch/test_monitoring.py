"""The files of Prometheus and Grafana are valid, complete, and cover every server."""

from __future__ import annotations

import itertools
import json

import promql_parser
import pytest
import yaml

from vllm_launch import compose
from vllm_launch.compose.monitoring import ALERTS, PANELS
from vllm_launch.presets import PRESETS

FILES = compose.files()
GRAFANA = "monitoring/grafana"


@pytest.mark.parametrize("expr", [row.expr for row in ALERTS])
def test_alert_is_valid_promql(expr: str) -> None:
    promql_parser.parse(expr)


@pytest.mark.parametrize("expr", [expr for row in PANELS for expr in row.queries])
def test_panel_is_valid_promql(expr: str) -> None:
    promql_parser.parse(expr.replace("$__rate_interval", "1m"))


def test_alerts_have_unique_names_and_name_the_server() -> None:
    assert len({row.name for row in ALERTS}) == len(ALERTS)
    assert all("{{ $labels." in row.summary for row in ALERTS)


def test_prometheus_discovers_every_server_and_reads_the_alerts() -> None:
    prometheus = yaml.safe_load(FILES["monitoring/prometheus.yml"])
    vllm, router = (job["dns_sd_configs"][0] for job in prometheus["scrape_configs"])
    assert set(vllm["names"]) == {*PRESETS, "vllm-llm-1", "vllm-llm-2"}
    assert (router["names"], router["port"]) == (["vllm-router"], 29000)
    assert "--prometheus-port, '29000'" in FILES["docker-compose.yml"]
    assert prometheus["rule_files"] == ["/etc/prometheus/alerts.yml"]
    (group,) = yaml.safe_load(FILES["monitoring/alerts.yml"])["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [row.name for row in ALERTS]


def test_service_job_is_valid_when_uncommented() -> None:
    text = FILES["monitoring/prometheus.yml"].replace("\n# ", "\n").replace("\nThe metrics", "\n# The metrics")
    jobs = yaml.safe_load(text)["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["vllm", "vllm-router", "ollama-compat"]
    assert "host.docker.internal:host-gateway" in FILES["docker-compose.yml"]


def test_grafana_finds_the_dashboard_and_its_data_source() -> None:
    (provider,) = yaml.safe_load(FILES[f"{GRAFANA}/provisioning/dashboards/vllm.yml"])["providers"]
    assert f"./{GRAFANA}/dashboards:{provider['options']['path']}:ro" in FILES["docker-compose.yml"]
    (source,) = yaml.safe_load(FILES[f"{GRAFANA}/provisioning/datasources/prometheus.yml"])["datasources"]
    dashboard = json.loads(FILES[f"{GRAFANA}/dashboards/vllm.json"])
    asked = [target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set(asked) == {source["uid"]}


def test_panels_do_not_overlap() -> None:
    panels = [panel["gridPos"] for panel in json.loads(FILES[f"{GRAFANA}/dashboards/vllm.json"])["panels"]]
    cells = [{(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])} for p in panels]
    assert not any(one & other for one, other in itertools.combinations(cells, 2))
