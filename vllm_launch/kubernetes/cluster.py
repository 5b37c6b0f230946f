"""What is the cluster's to say and not a server's description: namespace, replicas, storage, where Prometheus is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..runtimes.base import LaunchError

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
"""The Service that the Prometheus operator makes for each Prometheus, in the namespace that kube-prometheus has."""
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where servers are to run. Raises `LaunchError` for what no cluster would take."""

    namespace: str | None = None
    """None: the one that kubectl is told, or its default."""
    replicas: int = 1
    """How many there are of each server, at least."""
    max_replicas: int | None = None
    """How many at most; as many as `replicas`: there is no autoscaling. None: twice as many."""
    prometheus: str = PROMETHEUS
    """Where the autoscaler asks for vLLM's metrics: the base URL of Prometheus' API."""
    claim: str | None = None
    """A PersistentVolumeClaim for what the descriptions keep in named volumes. None: each pod keeps its own while it
    lives (emptyDir)."""

    def __post_init__(self) -> None:
        """Check what is given."""
        if self.namespace is not None and not _LABEL.fullmatch(self.namespace):
            raise LaunchError(
                f"The namespace {self.namespace!r} may have lower-case letters, digits and dashes, 63 at most."
            )
        if self.replicas < 1:
            raise LaunchError(
                f"There must be one replica at least, not {self.replicas}: none has a queue that says more are needed."
            )
        if self.at_most < self.replicas:
            raise LaunchError(f"There can't be {self.replicas} replicas at least and {self.at_most} at most.")

    @property
    def at_most(self) -> int:
        """How many replicas of each server there are at most."""
        return 2 * self.replicas if self.max_replicas is None else self.max_replicas

    @property
    def scales(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.at_most > self.replicas
