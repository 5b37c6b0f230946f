"""JSON schemas of the custom resources. They allow only the fields that the manifests contain.

Written by hand after the definitions that a cluster checks them with:

- PodMonitor: Prometheus operator 0.93, example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
- ScaledObject: KEDA 2.20, config/crd/bases/keda.sh_scaledobjects.yaml. What is in a trigger's `metadata` only KEDA
  itself checks: pkg/scalers/prometheus_scaler.go. The behavior is that of a HorizontalPodAutoscaler (autoscaling/v2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
NUMBER_AS_TEXT: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
DURATION: Schema = {"type": "string", "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$"}


def closed(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of an object with exactly these fields."""
    return {
        "type": "object",
        "required": [*required],
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def kind(version: str, name: str, spec: Schema) -> Schema:
    metadata = closed({"name": TEXT}, {"namespace": TEXT, "labels": TEXTS, "annotations": TEXTS})
    return closed({"apiVersion": {"const": version}, "kind": {"const": name}, "metadata": metadata, "spec": spec})


RELABELING = closed(
    {},
    {
        "sourceLabels": {"type": "array", "items": TEXT},
        "targetLabel": TEXT,
        "regex": TEXT,
        "replacement": TEXT,
        "action": {"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"]},
    },
)
ENDPOINT = closed(
    {},
    {
        "port": TEXT,
        "portNumber": COUNT,
        "path": TEXT,
        "interval": DURATION,
        "scrapeTimeout": DURATION,
        "relabelings": {"type": "array", "items": RELABELING},
    },
)
POD_MONITOR = kind(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    closed(
        {"selector": closed({}, {"matchLabels": TEXTS})},
        {
            "jobLabel": TEXT,
            "podTargetLabels": {"type": "array", "items": TEXT},
            "podMetricsEndpoints": {"type": "array", "items": ENDPOINT},
        },
    ),
)

PROMETHEUS_TRIGGER = closed(
    {
        "type": {"const": "prometheus"},
        "metadata": closed(
            {"serverAddress": TEXT, "query": TEXT, "threshold": NUMBER_AS_TEXT},
            {"activationThreshold": NUMBER_AS_TEXT, "ignoreNullValues": {"enum": ["true", "false"]}},
        ),
    },
    {"name": TEXT, "metricType": {"enum": ["AverageValue", "Value"]}},
)
SCALED_OBJECT = kind(
    "keda.sh/v1alpha1",
    "ScaledObject",
    closed(
        {
            "scaleTargetRef": closed({"name": TEXT}, {"apiVersion": TEXT, "kind": TEXT}),
            "triggers": {"type": "array", "items": PROMETHEUS_TRIGGER, "minItems": 1},
        },
        {
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "cooldownPeriod": COUNT,
            "advanced": closed({}, {"horizontalPodAutoscalerConfig": closed({}, {"behavior": {"type": "object"}})}),
        },
    ),
)

SCHEMAS: Mapping[str, Schema] = {"PodMonitor": POD_MONITOR, "ScaledObject": SCALED_OBJECT}
