"""The Kubernetes objects of servers: for each a Deployment, a Service, a PodMonitor and a ScaledObject. Pure.

Kinds and fields: Kubernetes' API reference (all versions from 1.25 on have them), the Prometheus operator's
monitoring.coreos.com/v1 and KEDA's keda.sh/v1alpha1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..compose.monitoring import JOB
from ..runtimes.base import LaunchError
from ..servers import Server
from . import pods, scaling
from .cluster import Cluster
from .pods import Spec

_MANAGER = "vllm-launch"
_NAME, _INSTANCE = "app.kubernetes.io/name", "app.kubernetes.io/instance"

# How pods are replaced. Usually the new pod needs the GPU of the old pod, so the old pod ends first.
_OLD_FIRST: Spec = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
_NEW_FIRST: Spec = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
_PULL_S = 600
"""How long pulling an image may take before the rollout counts as failed (seconds)."""


@dataclass(frozen=True, slots=True)
class Object:
    """One Kubernetes object of a server."""

    server: Server
    manifest: Spec

    @property
    def kind(self) -> str:
        """The kind of the object: Deployment, Service, …"""
        return str(self.manifest["kind"])


def objects(servers: Sequence[Server], cluster: Cluster) -> list[Object]:
    """The objects of all servers, in the order of their application. Raises `LaunchError`."""
    _require_one_key(servers)
    for server in servers:
        _require_name(server)
    return [Object(server, manifest) for server in servers for manifest in _manifests(server, cluster)]


def _manifests(server: Server, cluster: Cluster) -> list[Spec]:
    manifests = [
        _manifest("apps/v1", "Deployment", server, cluster, _deployment(server, cluster)),
        _manifest("v1", "Service", server, cluster, _service(server)),
        _manifest("monitoring.coreos.com/v1", "PodMonitor", server, cluster, _pod_monitor(server)),
    ]
    if cluster.scales:
        spec = scaling.scaled_object(server, cluster)
        manifests.append(_manifest("keda.sh/v1alpha1", "ScaledObject", server, cluster, spec))
    return manifests


def _manifest(version: str, kind: str, server: Server, cluster: Cluster, spec: Spec) -> Spec:
    place = {} if cluster.namespace is None else {"namespace": cluster.namespace}
    labels = {**_selector(server), "app.kubernetes.io/managed-by": _MANAGER}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": server.name, **place, "labels": labels},
        "spec": spec,
    }


def _selector(server: Server) -> dict[str, str]:
    """The labels that select a server's pods. They must not change: a Deployment rejects a changed selector."""
    return {_NAME: JOB, _INSTANCE: server.name}


def _deployment(server: Server, cluster: Cluster) -> Spec:
    """The Deployment. With an autoscaler it has no `replicas`: each `kubectl apply` would reset the number."""
    count: Spec = {} if cluster.scales else {"replicas": cluster.replicas}
    return {
        **count,
        "selector": {"matchLabels": _selector(server)},
        "strategy": _OLD_FIRST if server.needs_gpu else _NEW_FIRST,
        "progressDeadlineSeconds": _PULL_S + pods.start_period(server),
        "template": {"metadata": {"labels": _selector(server)}, "spec": pods.template(server, cluster)},
    }


def _service(server: Server) -> Spec:
    port = {"name": pods.PORT_NAME, "port": server.port, "targetPort": pods.PORT_NAME}
    return {"selector": _selector(server), "ports": [port]}


def _pod_monitor(server: Server) -> Spec:
    """The PodMonitor for `/metrics` of each pod. vLLM requires no key there."""
    endpoint = {
        "port": pods.PORT_NAME,
        "path": "/metrics",
        "interval": "15s",
        "relabelings": [{"targetLabel": scaling.SERVER_LABEL, "replacement": server.name}],
    }
    return {
        "jobLabel": _NAME,
        "selector": {"matchLabels": _selector(server)},
        "podMetricsEndpoints": [endpoint],
    }


def _require_name(server: Server) -> None:
    if not server.name[0].isalpha():
        raise LaunchError(f"Rename the server {server.name!r}: the name of a Service must begin with a letter.")


def _require_one_key(servers: Sequence[Server]) -> None:
    if len({server.api_key_file for server in servers} - {None}) > 1:
        raise LaunchError(
            f"These servers have different api_key_files, but a namespace has only one Secret {pods.KEY_SECRET}."
            " Put each server into a separate namespace: --namespace."
        )
