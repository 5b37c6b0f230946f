"""The settings of the cluster: namespace, replicas, storage, and the URL of Prometheus."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..runtimes.base import LaunchError

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
"""The Service that the Prometheus operator creates for each Prometheus, in the namespace of kube-prometheus."""
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that runs the servers. Raises `LaunchError` for invalid settings."""

    namespace: str | None = None
    """None: the namespace of kubectl."""
    replicas: int = 1
    """The minimum number of replicas of each server."""
    max_replicas: int | None = None
    """The maximum number of replicas. Equal to `replicas`: no autoscaling. None: twice as many."""
    prometheus: str = PROMETHEUS
    """The base URL of the Prometheus API that the autoscaler queries for vLLM's metrics."""
    claim: str | None = None
    """A PersistentVolumeClaim for the named volumes of the descriptions. None: each pod has its own emptyDir."""

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.namespace is not None and not _LABEL.fullmatch(self.namespace):
            raise LaunchError(
                f"The namespace {self.namespace!r} must consist of at most 63 lower-case letters, digits and dashes."
            )
        if self.replicas < 1:
            raise LaunchError(
                f"The minimum of replicas must be at least 1, not {self.replicas}: autoscaling needs a replica's queue."
            )
        if self.at_most < self.replicas:
            raise LaunchError(f"The maximum of {self.at_most} replicas is less than the minimum of {self.replicas}.")

    @property
    def at_most(self) -> int:
        """The maximum number of replicas of each server."""
        return 2 * self.replicas if self.max_replicas is None else self.max_replicas

    @property
    def scales(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.at_most > self.replicas
