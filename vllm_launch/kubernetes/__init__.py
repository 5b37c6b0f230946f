"""Kubernetes manifests of servers, written from their descriptions. Pure: nothing here asks a cluster.

`pods` says how a server runs in a pod, `objects` what stands around it, `scaling` when there are more of it, and `text`
puts all of them into one file.
"""

from .cluster import PROMETHEUS, Cluster
from .objects import Object, objects
from .text import generate

__all__ = ["PROMETHEUS", "Cluster", "Object", "generate", "objects"]
