"""Generates Kubernetes manifests from the descriptions of servers. Pure: it contacts no cluster.

`pods` defines the pod of a server, `objects` the objects around the pod, `scaling` the number of replicas, and `text`
writes all of them into one file.
"""

from .cluster import PROMETHEUS, Cluster
from .objects import Object, objects
from .text import generate

__all__ = ["PROMETHEUS", "Cluster", "Object", "generate", "objects"]
