"""How many replicas of a server there are: a ScaledObject of KEDA, by what Prometheus says of the server. Pure.

KEDA and not a HorizontalPodAutoscaler of one's own: KEDA makes that one, and asks Prometheus itself, so that no adapter
has to be told of vLLM's metrics (https://keda.sh/docs/latest/scalers/prometheus/, 2.20).

The queue says that there are too few. When it is gone it can't say that all of them are needed still, so the KV cache
in use does: without it a second replica would be taken away and brought back again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import metrics
from ..compose.monitoring import JOB
from ..servers import Server
from .cluster import Cluster
from .pods import Spec

SERVER_LABEL = "server"
"""The label of all metrics of a server, as in docker-compose.yml's Prometheus: alerts and dashboard fit both."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A row: a metric, and how much of it there is to be for each replica."""

    name: str
    query: str
    """PromQL of the sum over all replicas; `{}` stands for the labels."""
    threshold: str
    meaning: str
    """What it counts, after the threshold."""
    pooling: bool
    """Whether servers that make vectors and no text have it too."""


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

# One at a time, each with the time to load its model: until then it takes nothing off the queue.
_BEHAVIOR: Spec = {
    "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}]},
    "scaleDown": {
        "stabilizationWindowSeconds": 600,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}


def triggers(server: Server) -> list[Trigger]:
    """What its replicas are counted by."""
    return [row for row in TRIGGERS if row.pooling or server.runner != "pooling"]


def scaled_object(server: Server, cluster: Cluster) -> Spec:
    """The `spec` of its ScaledObject."""
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
            # No figures is no sign of little to do.
            "ignoreNullValues": "false",
        },
    }
