"""A server as a container: what the Docker engine is told when it makes one. Pure: nothing here speaks to an engine.

`../container.py` holds what Compose is told alike; here is what only the SDK needs: labels by which the container is
found again, and the hub's token, which is no part of them.
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
"""The description that the container was made from, as JSON; it holds no secrets. A container with it is ours."""
DIGEST_LABEL = _LABELS + "digest"
"""The description's digest."""
LAUNCHER_LABEL = _LABELS + "launcher"
"""Which launcher made it: until it is kept, it ends with that one."""

NOT_RESTARTED = {"Name": "no"}
RESTARTED: Any = {"Name": "unless-stopped"}  # the SDK's stubs do not know this one
"""After a crash and after a reboot, but not when somebody has stopped it."""

TOKEN_FILE = "/run/secrets/hf-token"
"""Where the hub's token lies in the container. A file of its own layer: it goes with the container."""
TOKEN_VARIABLE = "HF_TOKEN"

# NVIDIA's advice for PyTorch in containers (its container release notes): pinned memory, and stacks of 64 MiB.
_GPU_LIMITS = {"memlock": -1, "stack": 64 * 2**20}
_NANOSECONDS = 10**9
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def options(server: Server, launcher: str, *, has_token: bool) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`. Raises `LaunchError` for a volume or a host that can't be had."""
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
    """What it is given of the machine: ports, folders, GPUs, memory, log files."""
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
        # Mounts, not binds: of those, Docker makes an empty folder where one is missing.
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
    """The description that a container's labels hold. Raises `LaunchError`, with its name, where it can't be read."""
    try:
        fields = json.loads(found[SERVER_LABEL])
        # What another version of this launcher knew besides is left out.
        return Server.model_validate({key: value for key, value in fields.items() if key in Server.model_fields})
    except (ValueError, AttributeError) as error:
        raise LaunchError(
            f"The container {name} was made by another version of this launcher, and its description can't be read."
            f" Remove it: docker rm -f {name}"
        ) from error


def folders(server: Server) -> list[Path]:
    """The folders and files of this machine that the container mounts."""
    sources = [source for source, _, _ in map(volume, server.volumes.items()) if _kind(source) == "bind"]
    return [Path(source) for source in sources]


def token_archive(token: str) -> bytes:
    """The hub's token as the archive that puts it to `TOKEN_FILE`, for `put_archive` at `/`."""
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
            f"The volume {source!r} goes to {inside!r}: an absolute path is meant, with :ro or nothing after it."
        )
    if source.startswith(("/", "~")):
        return str(Path(source).expanduser()), target, mode == "ro"
    if not _VOLUME_NAME.fullmatch(source):
        raise LaunchError(
            f"The volume {source!r} is neither the name of a volume nor an absolute path, as /models or ~/models."
        )
    return source, target, mode == "ro"


def _kind(source: str) -> Literal["bind", "volume"]:
    return "bind" if source.startswith("/") else "volume"
