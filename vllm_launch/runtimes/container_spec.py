"""The parameters of a server's container for the Docker SDK. Pure: it does not contact an engine.

`../container.py` holds the parameters that Compose shares. This file adds what only the SDK needs: the labels that
identify the container, and the hub's token, which is not in the labels.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .. import container
from ..servers import Server
from .base import LaunchError

_LABELS = "ollama-compat.launch."
SERVER_LABEL = _LABELS + "server"
"""The description of the container as JSON; it contains no secrets. This label marks the containers of vllm-launch."""
DIGEST_LABEL = _LABELS + "digest"
"""The digest of the description."""
LAUNCHER_LABEL = _LABELS + "launcher"
"""The launcher that created the container. Until the container is detached, it ends with that launcher."""

NOT_RESTARTED = {"Name": "no"}
RESTARTED: Any = {"Name": "unless-stopped"}  # the SDK's stubs do not contain this value
"""Restart after a crash and after a reboot, but not after a manual stop."""

TOKEN_FILE = "/run/secrets/hf-token"
"""The path of the hub's token in the container. The file is in the container's layer and is removed with it."""
TOKEN_VARIABLE = "HF_TOKEN"

# NVIDIA recommends these limits for PyTorch in containers (container release notes): pinned memory, stacks of 64 MiB.
_GPU_LIMITS = {"memlock": -1, "stack": 64 * 2**20}
_NANOSECONDS = 10**9
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def options(server: Server, launcher: str, *, has_token: bool) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`. Raises `LaunchError` for an invalid volume or host."""
    from docker.types import Healthcheck

    check = container.health_check(server)
    token = {"HF_TOKEN_PATH": TOKEN_FILE} if has_token else {}
    return {
        "image": server.image,
        "name": server.name,
        "entrypoint": container.entrypoint(server),
        "command": container.command(server),
        "environment": {**token, **server.env},
        "labels": labels(server, launcher),
        "ports": [(container.PORT, "tcp")],
        "healthcheck": Healthcheck(
            test=["CMD", *check.command],
            interval=check.interval * _NANOSECONDS,
            timeout=check.timeout * _NANOSECONDS,
            retries=check.retries,
            start_period=check.start_period * _NANOSECONDS,
        ),
        "stop_timeout": server.stop_grace,
        "host_config": host_config(server),
    }


def host_config(server: Server) -> dict[str, Any]:
    """The host resources of the container: ports, folders, GPUs, memory, log files."""
    from docker.types import DeviceRequest, HostConfig, LogConfig, Mount, Ulimit

    key = [] if server.api_key_file is None else [(str(server.api_key_file.absolute()), container.KEY_FILE, True)]
    bound = [*map(volume, server.volumes.items()), *key]
    gpus: list[DeviceRequest] = []
    if server.gpus == "all":
        gpus = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    elif server.gpus:
        gpus = [DeviceRequest(device_ids=[str(number) for number in server.gpus], capabilities=[["gpu"]])]
    limits = _GPU_LIMITS if server.needs_gpu else {}
    return HostConfig(
        version="1.41",
        port_bindings={container.PORT: (container.address(server), server.port)},
        # Mounts, not binds: for a bind, Docker creates a missing folder.
        mounts=[Mount(target, source, type=_kind(source), read_only=only) for source, target, only in bound],
        device_requests=gpus,
        shm_size=server.shm_size,
        ulimits=[Ulimit(name=name, soft=value, hard=value) for name, value in limits.items()],
        log_config=LogConfig(type="json-file", config=container.LOG_OPTIONS),
        restart_policy=NOT_RESTARTED,
        init=True,
    )


def labels(server: Server, launcher: str) -> dict[str, str]:
    """The container's labels."""
    return {
        SERVER_LABEL: server.model_dump_json(),
        DIGEST_LABEL: server.digest,
        LAUNCHER_LABEL: launcher,
    }


def described(name: str, found: Mapping[str, str]) -> Server:
    """The description in a container's labels. Raises `LaunchError` with the container's name if it is invalid."""
    try:
        fields = json.loads(found[SERVER_LABEL])
        # Fields of other launcher versions are ignored.
        return Server.model_validate({key: value for key, value in fields.items() if key in Server.model_fields})
    except (ValueError, AttributeError) as error:
        raise LaunchError(
            f"Another version of this launcher created the container {name}. Its description cannot be read."
            f" Remove it: docker rm -f {name}"
        ) from error


def folders(server: Server) -> list[Path]:
    """The folders and files of this machine that the container mounts."""
    sources = [source for source, _, _ in map(volume, server.volumes.items()) if _kind(source) == "bind"]
    return [Path(source) for source in sources]


def token_archive(token: str) -> bytes:
    """An archive with the hub's token at `TOKEN_FILE`, for `put_archive` at `/`."""
    content = token.encode()
    member = tarfile.TarInfo(TOKEN_FILE.lstrip("/"))
    member.size, member.mode = len(content), 0o444
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def volume(given: tuple[str, str]) -> tuple[str, str, bool]:
    """(folder or named volume, path in the container, whether it is read only). Raises `LaunchError`."""
    source, inside = given
    target, _, mode = inside.partition(":")
    if mode not in ("", "ro", "rw") or not target.startswith("/"):
        raise LaunchError(
            f"The volume {source!r} has the target {inside!r}. It must be an absolute path, optionally with :ro."
        )
    if source.startswith(("/", "~")):
        return str(Path(source).expanduser()), target, mode == "ro"
    if not _VOLUME_NAME.fullmatch(source):
        raise LaunchError(
            f"The volume {source!r} is neither the name of a volume nor an absolute path, such as /models or ~/models."
        )
    return source, target, mode == "ro"


def _kind(source: str) -> Literal["bind", "volume"]:
    return "bind" if source.startswith("/") else "volume"
