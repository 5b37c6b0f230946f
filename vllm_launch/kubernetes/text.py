"""Writes the manifests as one YAML file with explanatory comments. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from ..container import READ_KEY
from ..servers import VLLM_VERSION, Server
from ..yaml_text import written
from . import pods, scaling
from .cluster import Cluster
from .objects import Object, objects

_KINDS = {
    "Service": "Reachable from the whole cluster. Without a key, every pod can use it.",
    "PodMonitor": "Needs the Prometheus operator. kube-prometheus-stack selects those with its label `release`.",
}


def generate(servers: Sequence[Server], cluster: Cluster | None = None) -> str:
    """All objects as YAML with several documents. It contains no key. Raises `LaunchError`."""
    cluster = cluster or Cluster()
    blocks = [_block(each) for each in objects(servers, cluster)]
    return "\n".join([*_head(servers, cluster), "", "---\n".join(blocks)])


def _head(servers: Sequence[Server], cluster: Cluster) -> Iterator[str]:
    yield f"# vLLM {VLLM_VERSION} servers, written by `vllm-launch k8s`."
    yield from _secrets(servers, cluster)
    yield "#"
    yield "# Variables for a service that uses these servers:"
    place = "" if cluster.namespace is None else f".{cluster.namespace}"
    urls = ",".join(f"http://{server.name}{place}:{server.port}" for server in servers)
    yield f"#   BACKEND_MODE=vllm VLLM_URLS={urls}"
    sharing = [one.name for one in servers if any(one is not other and one.shares_gpu_with(other) for other in servers)]
    if sharing:
        yield "#"
        yield f"# {', '.join(sharing)}: these servers share a GPU in their descriptions. Here each gets a whole GPU,"
        yield "# unless the cluster's device plugin uses time slicing; then gpu_memory_utilization divides the GPU."


def _secrets(servers: Sequence[Server], cluster: Cluster) -> Iterator[str]:
    kubectl = "kubectl" if cluster.namespace is None else f"kubectl --namespace {cluster.namespace}"
    file = next((server.api_key_file for server in servers if server.api_key_file is not None), None)
    required = "no server starts without it" if file else "without it, the servers require no key"
    yield "#"
    yield f"# The key that clients must send ({required}):"
    yield f"#   {READ_KEY}{shlex.quote(str(file or 'vllm-api-key'))} |"
    yield f"#     {kubectl} create secret generic {pods.KEY_SECRET} --from-file={pods.KEY_ITEM}=/dev/stdin"
    yield "# The token of the Hugging Face hub (optional, for gated models):"
    yield '#   printf %s "$HF_TOKEN" |'
    yield f"#     {kubectl} create secret generic {pods.TOKEN_SECRET} --from-file={pods.TOKEN_ITEM}=/dev/stdin"


def _block(each: Object) -> str:
    comment = "\n".join(f"# {line}" for line in _comment(each))
    return f"{comment}\n{written(each.manifest)}"


def _comment(each: Object) -> list[str]:
    match each.kind:
        case "Deployment":
            return _deployment(each.server)
        case "ScaledObject":
            wanted = " or ".join(f"{row.threshold} {row.meaning}" for row in scaling.triggers(each.server))
            return ["Needs KEDA, and the metrics in its Prometheus.", f"One replica for each {wanted}."]
        case kind:
            return [_KINDS[kind]]


def _deployment(server: Server) -> list[str]:
    count = pods.gpus(server)
    on = f"{count} GPU{'s' if count > 1 else ''}" if count else "without a GPU"
    lines = [f"{server.name}: {server.model}, {on}"]
    if count:
        lines.append(
            "An update ends the old pod before it starts the new one, which needs the GPU: one replica leaves a gap."
        )
    folders = [source for source in server.volumes if source.startswith("/")]
    if folders:
        lines.append(f"Every node that can run this pod must have {', '.join(folders)}.")
    return lines
