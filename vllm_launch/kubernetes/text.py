"""The manifests as one YAML file, with what a reader must know above them. Pure."""

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
    "Service": "Reached from the whole cluster: without a key, by everybody in it.",
    "PodMonitor": "Needs the Prometheus operator. kube-prometheus-stack heeds those with its label `release`.",
}


def generate(servers: Sequence[Server], cluster: Cluster | None = None) -> str:
    """All objects as a YAML of several documents. Raises `LaunchError`; no key stands in it."""
    cluster = cluster or Cluster()
    blocks = [_block(each) for each in objects(servers, cluster)]
    return "\n".join([*_head(servers, cluster), "", "---\n".join(blocks)])


def _head(servers: Sequence[Server], cluster: Cluster) -> Iterator[str]:
    yield f"# Servers of vLLM {VLLM_VERSION}, written by `vllm-launch k8s`."
    yield from _secrets(servers, cluster)
    yield "#"
    yield "# What a service is told, so that its calls go to these servers:"
    place = "" if cluster.namespace is None else f".{cluster.namespace}"
    urls = ",".join(f"http://{server.name}{place}:{server.port}" for server in servers)
    yield f"#   BACKEND_MODE=vllm VLLM_URLS={urls}"
    sharing = [one.name for one in servers if any(one is not other and one.shares_gpu_with(other) for other in servers)]
    if sharing:
        yield "#"
        yield f"# {', '.join(sharing)}: described as sharing a GPU. Each gets a whole one of its own here, unless the"
        yield "# cluster's device plugin slices time; then gpu_memory_utilization divides the GPU that several are on."


def _secrets(servers: Sequence[Server], cluster: Cluster) -> Iterator[str]:
    kubectl = "kubectl" if cluster.namespace is None else f"kubectl --namespace {cluster.namespace}"
    file = next((server.api_key_file for server in servers if server.api_key_file is not None), None)
    required = "no server starts without it" if file else "without it, no server asks for a key"
    yield "#"
    yield f"# The key that clients must send ({required}):"
    yield f"#   {READ_KEY}{shlex.quote(str(file or 'vllm-api-key'))} |"
    yield f"#     {kubectl} create secret generic {pods.KEY_SECRET} --from-file={pods.KEY_ITEM}=/dev/stdin"
    yield "# The token of the Hugging Face hub (for gated models; without it, there is none):"
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
            return ["Needs KEDA, and the metrics in its Prometheus.", f"There is a replica for each {wanted}."]
        case kind:
            return [_KINDS[kind]]


def _deployment(server: Server) -> list[str]:
    count = pods.gpus(server)
    on = f"{count} GPU{'s' if count > 1 else ''}" if count else "without a GPU"
    lines = [f"{server.name}: {server.model}, {on}"]
    if count:
        lines.append(
            "An update ends a pod before it starts the next, which needs the GPU: a lone replica leaves a gap."
        )
    folders = [source for source in server.volumes if source.startswith("/")]
    if folders:
        lines.append(f"Every node that it may run on must have {', '.join(folders)}.")
    return lines
