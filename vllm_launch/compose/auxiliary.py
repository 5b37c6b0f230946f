"""The auxiliary services of docker-compose.yml: Ollama, Redis, Prometheus, Grafana, and vLLM's router.

Each is a dict in Compose's format. The health checks use programs that the images contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from .. import container
from .. import router as vllm_router
from . import variables as v

Spec: TypeAlias = dict[str, object]
"""A service in Compose's format."""

ROUTER = "vllm-router"
SERVICES = (ROUTER, "ollama", "redis", "prometheus", "grafana")
"""The names that are reserved: a server cannot have them."""

_ROUTER_DOCKERFILE = f"""\
FROM python:3.12-slim
RUN pip install --no-cache-dir {vllm_router.REQUIREMENT}
USER nobody
ENTRYPOINT ["{vllm_router.COMMAND}"]
"""


def always() -> Spec:
    """The settings of all services: automatic restart, and logs of a limited size."""
    return {
        "restart": "unless-stopped",
        "logging": {"driver": "json-file", "options": dict(container.LOG_OPTIONS)},
    }


def health(
    test: Sequence[str], start_period: str = "60s", interval: int = 10, timeout: int = 8, retries: int = 3
) -> Spec:
    """A health check. Times in seconds."""
    return {
        "test": list(test),
        "interval": f"{interval}s",
        "timeout": f"{timeout}s",
        "retries": retries,
        "start_period": start_period,
    }


def gpus(ids: Sequence[v.Variable]) -> Spec:
    """The reservation of these GPUs; without ids, of all GPUs."""
    which: Spec = {"device_ids": [str(gpu) for gpu in ids]} if ids else {"count": "all"}
    return {"resources": {"reservations": {"devices": [{"driver": "nvidia", **which, "capabilities": ["gpu"]}]}}}


def waits_for(*names: str) -> Spec:
    """The dependency on other services: they must be healthy first."""
    return {name: {"condition": "service_healthy"} for name in names}


def router(replicas: Sequence[str], address: str, port: v.Variable) -> Spec:
    """vLLM's router in front of replicas. It forwards the caller's key and needs none itself."""
    workers = [f"http://{name}:{container.PORT}" for name in replicas]
    return {
        "image": str(v.ROUTER_IMAGE),
        "build": {"dockerfile_inline": _ROUTER_DOCKERFILE},
        "profiles": ["scale"],
        "command": vllm_router.arguments(workers, container.PORT, container.LISTEN, str(v.ROUTER_POLICY)),
        "ports": [f"{address}:{port}:{container.PORT}"],
        "init": True,
        # Ready: at least one of the replicas answers.
        "healthcheck": health(["CMD", *container.probe("python", vllm_router.READINESS)]),
        "depends_on": waits_for(*replicas),
    }


def ollama() -> Spec:
    """Ollama, for rollback."""
    return {
        "image": str(v.OLLAMA_IMAGE),
        "profiles": ["gpu-legacy"],
        "ports": [f"{v.BIND_ADDRESS}:{v.OLLAMA_PORT}:11434"],
        "volumes": [f"{v.OLLAMA_HOME}:/root/.ollama"],
        "deploy": gpus(()),
        "healthcheck": health(["CMD", "ollama", "list"]),
    }


def redis() -> Spec:
    """Redis, which counts calls for several processes. Its data lives for seconds and is not written to disk.

    Protected mode is off: it would reject all clients outside the container. The address of the published port protects
    it instead.
    """
    return {
        "image": str(v.REDIS_IMAGE),
        "profiles": ["limits"],
        "command": [
            *("redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"),
            *("--maxmemory", "256mb", "--maxmemory-policy", "volatile-ttl"),
        ],
        "ports": [f"{v.TOOLS_BIND_ADDRESS}:{v.REDIS_PORT}:6379"],
        "healthcheck": health(["CMD-SHELL", "redis-cli ping | grep -q PONG"], "10s"),
    }


def prometheus() -> Spec:
    """Prometheus, which reads `/metrics` of each server."""
    return {
        "image": str(v.PROMETHEUS_IMAGE),
        "profiles": ["monitoring"],
        "command": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            f"--storage.tsdb.retention.time={v.PROMETHEUS_RETENTION}",
        ],
        "ports": [f"{v.TOOLS_BIND_ADDRESS}:{v.PROMETHEUS_PORT}:9090"],
        # Prometheus can also read the metrics of a service that runs on the host.
        "extra_hosts": ["host.docker.internal:host-gateway"],
        "volumes": [
            "./monitoring/prometheus.yml:/etc/prometheus/prometheus.yml:ro",
            "./monitoring/alerts.yml:/etc/prometheus/alerts.yml:ro",
            "prometheus:/prometheus",
        ],
        "healthcheck": health(["CMD", "promtool", "check", "ready", "--url=http://127.0.0.1:9090"]),
    }


def grafana() -> Spec:
    """Grafana, which shows the data of Prometheus."""
    return {
        "image": str(v.GRAFANA_IMAGE),
        "profiles": ["monitoring"],
        "environment": {
            "GF_SECURITY_ADMIN_PASSWORD": str(v.GRAFANA_PASSWORD),
            "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": "/etc/grafana/dashboards/vllm.json",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        },
        "ports": [f"{v.TOOLS_BIND_ADDRESS}:{v.GRAFANA_PORT}:3000"],
        "volumes": [
            "./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro",
            "./monitoring/grafana/dashboards:/etc/grafana/dashboards:ro",
            "grafana:/var/lib/grafana",
        ],
        "healthcheck": health(["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:3000/api/health"]),
        "depends_on": waits_for("prometheus"),
    }
