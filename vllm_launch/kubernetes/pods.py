"""A server as the template of a pod. Pure.

How a container starts its server, reads its key and is asked for its health is `../container.py`'s, as for Docker.
What differs from Docker, and why:

- Kubernetes takes pods away as a matter of course: updates, scaling, drained nodes. At SIGTERM vLLM cuts off what it is
  answering, unless it has `--shutdown-timeout` (0.32, v1/engine/core.py), or even leaves a stream open without an end
  until it is killed: its engine may be gone before it has told of the aborted request. So it gets that flag.
- Kubernetes sets variables for each Service of the namespace, as docker links once did: one called `vllm` sets
  `VLLM_PORT=tcp://…`, which vLLM reads as its own and stops (vllm/envs.py). So `enableServiceLinks` is off.
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

from .. import container
from ..runtimes.base import LaunchError
from ..runtimes.container_spec import TOKEN_VARIABLE, volume
from ..servers import TEARDOWN_S, Server
from .cluster import Cluster

Spec: TypeAlias = dict[str, object]
"""A part of a manifest, by Kubernetes' names."""

PORT_NAME = "http"
GPU = "nvidia.com/gpu"
"""The resource of NVIDIA's device plugin."""
KEY_SECRET, KEY_ITEM = "vllm-api-key", "api-key"
TOKEN_SECRET, TOKEN_ITEM = "hf-token", "token"

LEAVE_S = 10
"""How long a pod goes on as before when it is taken away, until all nodes know that it gets no more requests."""
SHUTDOWN_TIMEOUT_S = 120
"""How long vLLM then has to end what it is answering, where a description says nothing."""

_HANG_RETRIES = 6
"""A server that does not answer is left out soon, and started again only later: it may be busy, and loads for long."""
_GPU_MEMORY_GI = 8
"""GiB of a node's memory that a server wants for each GPU. Weights pass through it, they don't stay."""
_CPU_MEMORY_GI = 8
"""GiB for a server without a GPU, beside its KV cache: a small model, and vLLM."""
_CPU_KV_CACHE_GI = 4
_CPU_CORES = 4

_SHM, _CACHE, _KEY = "shm", "cache", "key"
_SIZE = re.compile(r"(\d+)([kmgt]?)i?b?", re.IGNORECASE)


def template(server: Server, cluster: Cluster) -> Spec:
    """The pod's `spec`. Raises `LaunchError` for volumes and sizes that no pod can have."""
    mounts, volumes = _volumes(server, cluster)
    on_gpu: Spec = {"tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]}
    return {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": LEAVE_S + _shutdown_timeout(server) + TEARDOWN_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **(on_gpu if server.needs_gpu else {}),
        "containers": [{**_container(server), "volumeMounts": mounts}],
        "volumes": volumes,
    }


def gpus(server: Server) -> int:
    """How many GPUs a pod of it has. Which ones is for Kubernetes to say; all of a machine: what vLLM needs."""
    if server.gpus == "all":
        return (server.tensor_parallel_size or 1) * (server.pipeline_parallel_size or 1)
    return len(server.gpus)


def start_period(server: Server) -> int:
    """How long it may take to download and load its model, in seconds."""
    return container.health_check(server).start_period


def _container(server: Server) -> Spec:
    check = container.health_check(server)
    patience = math.ceil(check.start_period / check.interval)
    return {
        "name": "vllm",
        "image": server.image,
        "command": [_literal(part) for part in container.entrypoint(server)],
        "args": [_literal(part) for part in _arguments(server)],
        "env": _environment(server),
        "ports": [{"name": PORT_NAME, "containerPort": container.PORT}],
        "resources": _resources(server),
        "startupProbe": _probe(check, patience),
        "readinessProbe": _probe(check, check.retries),
        "livenessProbe": _probe(check, _HANG_RETRIES),
        # A command, not the action `sleep`, which clusters before 1.30 do not know.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_S)]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _arguments(server: Server) -> list[str]:
    ours = [] if server.shutdown_timeout is not None else ["--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S)]
    return [*container.command(server), *ours]


def _shutdown_timeout(server: Server) -> int:
    return SHUTDOWN_TIMEOUT_S if server.shutdown_timeout is None else server.shutdown_timeout


def _environment(server: Server) -> list[Spec]:
    """Its variables. The hub's token is there where its Secret is."""
    reference = {"name": TOKEN_SECRET, "key": TOKEN_ITEM, "optional": True}
    token: Spec = {"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": reference}}
    own: list[Spec] = [{"name": name, "value": _literal(value)} for name, value in server.env.items()]
    return [token, *own]


def _resources(server: Server) -> Spec:
    """What a node must have. Without requests a pod would be the first to go when a node's memory runs short.

    vLLM wants a core for its API, one for its engine and one for each GPU (docs/configuration/optimization.md).
    """
    count = gpus(server)
    if count:
        return {
            "requests": {"cpu": str(2 + count), "memory": f"{_GPU_MEMORY_GI * count}Gi"},
            "limits": {GPU: str(count)},
        }
    space = server.env.get("VLLM_CPU_KVCACHE_SPACE", "")
    memory = _CPU_MEMORY_GI + (int(space) if space.isdigit() else _CPU_KV_CACHE_GI)
    return {"requests": {"cpu": str(_CPU_CORES), "memory": f"{memory}Gi"}}


def _probe(check: container.HealthCheck, failures: int) -> Spec:
    """`/health` needs no key; it answers once the model is loaded, and with 503 when the engine has died."""
    return {
        "httpGet": {"path": "/health", "port": PORT_NAME},
        "periodSeconds": check.interval,
        "timeoutSeconds": check.timeout,
        "failureThreshold": failures,
    }


def _volumes(server: Server, cluster: Cluster) -> tuple[list[Spec], list[Spec]]:
    """(what the container mounts, the pod's volumes)."""
    key_folder, _, key_file = container.KEY_FILE.rpartition("/")
    mounts: list[Spec] = [
        {"name": _SHM, "mountPath": "/dev/shm"},
        {"name": _KEY, "mountPath": key_folder, "readOnly": True},
    ]
    volumes: list[Spec] = [
        {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(server)}},
        {"name": _KEY, "secret": _key_secret(server, key_file)},
    ]
    kept: Spec = {"persistentVolumeClaim": {"claimName": cluster.claim}} if cluster.claim else {"emptyDir": {}}
    for place, given in enumerate(server.volumes.items()):
        source, target, read_only = _volume(server, given)
        on_node = source.startswith("/")
        name = f"folder-{place}" if on_node else _CACHE
        mount: Spec = {"name": name, "mountPath": target}
        mounts.append(
            {**mount, **({} if on_node else {"subPath": source}), **({"readOnly": True} if read_only else {})}
        )
        wanted: Spec = {"name": name, **({"hostPath": {"path": source}} if on_node else kept)}
        if wanted not in volumes:
            volumes.append(wanted)
    return mounts, volumes


def _volume(server: Server, given: tuple[str, str]) -> tuple[str, str, bool]:
    if given[0].startswith("~"):
        raise LaunchError(
            f"{server.name}: the volume {given[0]!r} is in your home, and a pod mounts a folder of its node: /…"
        )
    return volume(given)


def _key_secret(server: Server, file: str) -> Spec:
    """The key as a file. Where a description has a key, there is no server without one."""
    return {
        "secretName": KEY_SECRET,
        "optional": server.api_key_file is None,
        "items": [{"key": KEY_ITEM, "path": file}],
        "defaultMode": 0o444,
    }


def _quantity(server: Server) -> str:
    """Docker's size, whose units are powers of 1024, as Kubernetes writes it."""
    match = _SIZE.fullmatch(server.shm_size)
    if match is None:
        raise LaunchError(f"{server.name}: shm_size is {server.shm_size!r}; a size is meant, as 8g or 512m.")
    number, unit = match.groups()
    return f"{number}{unit.capitalize()}i" if unit else number


def _literal(text: str) -> str:
    """Text in which Kubernetes finds no variables: it reads `$(NAME)`, and `$$` as one dollar."""
    return text.replace("$", "$$")
