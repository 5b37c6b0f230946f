"""The autoscaling of a server: a ScaledObject of KEDA that uses Prometheus metrics. Pure.

KEDA creates a HorizontalPodAutoscaler and queries Prometheus itself. So vLLM's metrics need no metrics adapter
(https://keda.sh/docs/latest/scalers/prometheus/, 2.20).

The queue shows that there are too few replicas. An empty queue does not show that the replicas are unused, so the used
KV cache is the second trigger: without it, a second replica would be removed and started again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import metrics
from ..compose.monitoring import JOB
from ..servers import Server
from .cluster import Cluster
from .pods import Spec

SERVER_LABEL = "server"
"""The label of a server's metrics. It is that of docker-compose.yml, so the same alerts and dashboard apply."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A row: a metric, and its target value per replica."""

    name: str
    query: str
    """PromQL of the sum over all replicas; `{}` is replaced by the labels."""
    threshold: str
    meaning: str
    """What the metric counts, written after the threshold."""
    pooling: bool
    """Whether the trigger also applies to embedding servers."""


TRIGGERS = (
    Trigger("requests-waiting", f"sum({metrics.WAITING}{{}})", "5", "requests that wait", pooling=True),
    Trigger(
        "kv-cache-in-use",
        f"sum(max by (pod) ({metrics.KV_CACHE_USAGE}{{}}))",
        "0.7",
        "of a KV cache in use",
        pooling=False,
    ),
)

# One replica at a time, with time to load its model: until then, it does not shorten the queue.
_BEHAVIOR: Spec = {
    "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}]},
    "scaleDown": {
        "stabilizationWindowSeconds": 600,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}


def triggers(server: Server) -> list[Trigger]:
    """The triggers of a server."""
    return [row for row in TRIGGERS if row.pooling or server.runner != "pooling"]


def scaled_object(server: Server, cluster: Cluster) -> Spec:
    """The `spec` of the ScaledObject."""
    return {
        "scaleTargetRef": {"name": server.name},
        "minReplicaCount": cluster.replicas,
        "maxReplicaCount": cluster.at_most,
        "pollingInterval": 15,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
        "triggers": [_trigger(row, server, cluster) for row in triggers(server)],
    }


def _trigger(row: Trigger, server: Server, cluster: Cluster) -> Spec:
    labels = {"job": JOB, SERVER_LABEL: server.name}
    if cluster.namespace is not None:
        labels["namespace"] = cluster.namespace
    selector = "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
    return {
        "type": "prometheus",
        "name": row.name,
        "metadata": {
            "serverAddress": cluster.prometheus,
            "query": row.query.format(selector),
            "threshold": row.threshold,
            # Missing metrics do not mean that the load is low.
            "ignoreNullValues": "false",
        },
    }
