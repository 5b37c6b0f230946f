"""The pod template of a server. Pure.

`../container.py` defines how a container starts the server, reads the key and checks the health, as for Docker.
Differences to Docker:

- Kubernetes removes pods regularly: updates, scaling, drained nodes. At SIGTERM, vLLM aborts running requests unless it
  has `--shutdown-timeout` (0.32, v1/engine/core.py). A stream can even stay open without an end until vLLM is killed,
  because the engine may exit before it reports the aborted request. So the manifests set that flag.
- Kubernetes sets variables for each Service of the namespace, like docker links: a Service `vllm` sets
  `VLLM_PORT=tcp://…`. vLLM reads this variable as its own and exits (vllm/envs.py). So `enableServiceLinks` is off.
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
"""A part of a manifest, in Kubernetes' format."""

PORT_NAME = "http"
GPU = "nvidia.com/gpu"
"""The resource name of NVIDIA's device plugin."""
KEY_SECRET, KEY_ITEM = "vllm-api-key", "api-key"
TOKEN_SECRET, TOKEN_ITEM = "hf-token", "token"

LEAVE_S = 10
"""How long a pod keeps accepting requests after its deletion, until all nodes stop sending requests (seconds)."""
SHUTDOWN_TIMEOUT_S = 120
"""How long vLLM then may finish running requests, unless the description sets a value (seconds)."""

_HANG_RETRIES = 6
"""Failed checks until a restart. An unready server is excluded sooner: it may be busy, and a restart takes long."""
_GPU_MEMORY_GI = 8
"""GiB of a node's memory for each GPU. Weights only pass through this memory."""
_CPU_MEMORY_GI = 8
"""GiB for a server without a GPU, in addition to its KV cache: a small model, and vLLM."""
_CPU_KV_CACHE_GI = 4
_CPU_CORES = 4

_SHM, _CACHE, _KEY = "shm", "cache", "key"
_SIZE = re.compile(r"(\d+)([kmgt]?)i?b?", re.IGNORECASE)


def template(server: Server, cluster: Cluster) -> Spec:
    """The pod's `spec`. Raises `LaunchError` for volumes and sizes that a pod cannot have."""
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
    """The number of GPUs of a pod. Kubernetes chooses which. For "all": as many as vLLM's parallel sizes need."""
    if server.gpus == "all":
        return (server.tensor_parallel_size or 1) * (server.pipeline_parallel_size or 1)
    return len(server.gpus)


def start_period(server: Server) -> int:
    """How long the server may take to download and load its model (seconds)."""
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
        # A command, not the action `sleep`: clusters before 1.30 do not support it.
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
    """The environment variables. The hub's token is set if its Secret exists."""
    reference = {"name": TOKEN_SECRET, "key": TOKEN_ITEM, "optional": True}
    token: Spec = {"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": reference}}
    own: list[Spec] = [{"name": name, "value": _literal(value)} for name, value in server.env.items()]
    return [token, *own]


def _resources(server: Server) -> Spec:
    """The resources of a pod. Without requests, Kubernetes would evict the pod first if memory runs short.

    vLLM needs a core for its API, one for its engine and one for each GPU (docs/configuration/optimization.md).
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
    """A probe of `/health`. It needs no key, answers once the model is loaded, and returns 503 if the engine died."""
    return {
        "httpGet": {"path": "/health", "port": PORT_NAME},
        "periodSeconds": check.interval,
        "timeoutSeconds": check.timeout,
        "failureThreshold": failures,
    }


def _volumes(server: Server, cluster: Cluster) -> tuple[list[Spec], list[Spec]]:
    """(mounts of the container, volumes of the pod)."""
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
            f"{server.name}: the volume {given[0]!r} is in your home folder, but a pod mounts a folder of its node: /…"
        )
    return volume(given)


def _key_secret(server: Server, file: str) -> Spec:
    """The key as a file. If the description sets a key, the pod does not start without the Secret."""
    return {
        "secretName": KEY_SECRET,
        "optional": server.api_key_file is None,
        "items": [{"key": KEY_ITEM, "path": file}],
        "defaultMode": 0o444,
    }


def _quantity(server: Server) -> str:
    """The size of shared memory in Kubernetes' notation. Docker's units are powers of 1024."""
    match = _SIZE.fullmatch(server.shm_size)
    if match is None:
        raise LaunchError(f"{server.name}: shm_size is {server.shm_size!r}; it must be a size, such as 8g or 512m.")
    number, unit = match.groups()
    return f"{number}{unit.capitalize()}i" if unit else number


def _literal(text: str) -> str:
    """The text, escaped so that Kubernetes finds no variables. It expands `$(NAME)`, and `$$` to one dollar."""
    return text.replace("$", "$$")
