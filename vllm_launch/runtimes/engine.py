"""The Docker engine: connecting to it, explaining its errors, and fetching an image with progress.

The SDK reports three kinds of errors differently: an unreachable engine, a rejection with the engine's message, and an
error inside a stream. `calls` converts all of them to `LaunchError`. `REFUSALS` has a row for each known message.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..servers import Server, is_loopback
from .base import LaunchError, Report

if TYPE_CHECKING:
    from docker import DockerClient

# The SDK's base URLs of a local socket (docker/api/client.py). An engine over ssh has `http+docker://ssh`.
_SOCKETS = ("http+docker://localhost", "http+docker://localnpipe")

_USUAL_SOCKET = Path("/var/run/docker.sock")

TIMEOUT_S = 60
"""How long the engine may take to answer (seconds). Under load, it needs about ten to start a container."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rejection by the engine: its message and the meaning."""

    pattern: str
    """A regular expression that matches the engine's message, case-insensitively."""
    meaning: str
    """The meaning and the fix. `{0}`: the first group of `pattern`."""

    def explain(self, message: str) -> str | None:
        """The meaning of the message; None if the pattern does not match."""
        found = re.search(self.pattern, message, re.IGNORECASE)
        return self.meaning.format(*found.groups()) if found else None


NO_GPU = (
    "the Docker engine cannot give a container an NVIDIA GPU. Install the NVIDIA Container Toolkit there,"
    " run `nvidia-ctk runtime configure --runtime=docker`, and restart Docker. Without a GPU, start the CPU servers:"
    " vllm-launch up vllm-llm-cpu vllm-embed-cpu"
)

# The messages of moby 20.10 to 28, of registries, of runc and of libnvidia-container.
REFUSALS = (
    Refusal(r"could not select device driver|unresolvable CDI devices|unknown or invalid runtime name: nvidia", NO_GPU),
    Refusal(r"nvidia.*(unknown device|device error)", "its GPU does not exist; `nvidia-smi` lists the GPUs"),
    Refusal(
        r"nvidia-container|nvml error", "the NVIDIA driver of the engine's machine does not work; try `nvidia-smi`"
    ),
    Refusal(r"cannot assign requested address", "its host is no address of the engine's machine; 127.0.0.1 always is"),
    Refusal(r"invalid IP address|invalid.*host.*ip", "its host must be an address, such as 127.0.0.1 or 0.0.0.0"),
    Refusal(
        r"source path does not exist: (\S+)",
        "the mounted folder or file {0} does not exist on the engine's machine. Create it, or correct the path",
    ),
    Refusal(r"no space left on device|disk quota exceeded", "the disk is full; `docker system df` shows what fills it"),
    Refusal(r'exec: "([^"]*)":.*(?:not found|no such file)', "its image does not contain the start program {0}"),
    Refusal(
        r"exec format error|no match(?:ing manifest)? for|does not match the specified platform",
        "its image is for another kind of processor",
    ),
    Refusal(r"error setting rlimit", "the engine has no permission to set a limit; a rootless engine may be the cause"),
    Refusal(
        r"toomanyrequests|rate limit", "the registry's rate limit is exceeded; wait, or log in with `docker login`"
    ),
    Refusal(
        r"dial tcp|no such host|i/o timeout|Client\.Timeout|TLS handshake|connection refused|unreachable|proxyconnect",
        "the registry can't be reached from the engine's machine. Check its network and its proxy settings, or copy"
        " the image there with `docker save` and `docker load`",
    ),
    Refusal(
        r"repository does not exist|manifest unknown|manifest for .* not found|pull access denied|invalid reference"
        r"|no such image|unauthorized|\bdenied\b",
        "there is no such image, or it needs `docker login`. Check its name and its tag",
    ),
)


def connect(timeout: int = TIMEOUT_S) -> DockerClient:
    """A client of the engine that the command `docker` uses: `DOCKER_HOST`, or the current context.

    Raises `LaunchError` if the SDK is missing or no engine answers.
    """
    try:
        import docker
    except ImportError as error:
        raise LaunchError("Containers need Docker's SDK for Python: pip install 'ollama-compat[launch]'") from error
    with calls("The Docker engine cannot be used"):
        return docker.from_env(timeout=timeout)


def is_expected() -> bool:
    """Whether an engine is expected: `DOCKER_HOST` is set, or Docker is installed on this machine."""
    return bool(os.environ.get("DOCKER_HOST")) or _USUAL_SOCKET.exists() or shutil.which("dockerd") is not None


@contextlib.contextmanager
def calls(failure: str) -> Iterator[None]:
    """Convert exceptions of the SDK to `LaunchError`. `failure`: the operation that failed."""
    import requests
    import urllib3
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise LaunchError(refused(failure, error.explanation or str(error))) from error
    except requests.exceptions.Timeout as error:
        raise LaunchError(f"{failure}: the Docker engine at {_address()} does not answer in time.") from error
    except (DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise LaunchError(f"{failure}: {_unreachable(str(error))}") from error


def refused(failure: str, message: str) -> str:
    """The error text for an operation that the engine rejected with this message."""
    for refusal in REFUSALS:
        if meaning := refusal.explain(message):
            return f"{failure}: {meaning}.\nDocker's message: {message.strip()}"
    return f"{failure}. Docker's message: {message.strip()}"


def is_local(client: DockerClient) -> bool:
    """Whether the engine runs on this machine (the client uses a local socket)."""
    return str(client.api.base_url) in _SOCKETS


def require_reachable(client: DockerClient, server: Server, failure: str) -> None:
    """Raise if the engine is on another machine but the server would listen on a loopback address there."""
    if is_local(client) or not is_loopback(urlsplit(server.base_url).hostname or ""):
        return
    engine = urlsplit(client.api.base_url).hostname
    if not is_loopback(engine or ""):
        raise LaunchError(
            f"{failure}: the Docker engine at {_address()} is on another machine, whose {server.base_url} is not"
            " reachable from here. Run vllm-launch there, or set host to an address of that machine and set"
            " api_key_file: without a key, any client that reaches that address can use the server."
        )


def require_gpu(client: DockerClient, failure: str) -> None:
    """Raise if the engine certainly has no GPU, before it fetches gigabytes of an image.

    An engine provides GPUs by a runtime named `nvidia`, by discovered CDI devices (Docker 28.2 and later), or by the
    toolkit's hook, which it searches on its PATH (moby, daemon/nvidia_linux.go). The PATH of a remote engine is
    unknown: that engine rejects the start of the container, which `REFUSALS` explains.
    """
    with calls(failure):
        info: dict[str, Any] = client.info()
    devices = info.get("DiscoveredDevices") or []
    found = "nvidia" in (info.get("Runtimes") or {}) or any("nvidia" in str(device.get("ID")) for device in devices)
    if not found and is_local(client) and not shutil.which("nvidia-container-runtime-hook"):
        raise LaunchError(f"{failure}: {NO_GPU}.")


def fetch(client: DockerClient, image: str, report: Report) -> None:
    """Fetch the image if the engine does not have it. `report` receives the progress."""
    from docker.errors import ImageNotFound

    failure = f"The image {image} can't be fetched"
    with calls(failure):
        try:
            client.images.get(image)
            return
        except ImageNotFound:
            report(f"fetching {image}")
        layers = Layers()
        for event in client.api.pull(image, stream=True, decode=True):
            if "error" in event:
                raise LaunchError(refused(failure, str(event["error"])))
            if layers.take(event):
                report(layers.text())


@dataclass(slots=True)
class Layers:
    """The progress of an image pull, from the engine's events."""

    _done: dict[str, bool] = field(default_factory=dict)
    _bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process one event. Returns whether the progress changed."""
        layer, status = event.get("id"), event.get("status")
        if not isinstance(layer, str) or not isinstance(status, str) or status.startswith("Pulling from"):
            return False
        self._done[layer] = status in ("Pull complete", "Already exists")
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (int(detail["current"]), int(detail["total"]))
        elif layer in self._bytes:  # the layer is downloaded; the engine verifies or unpacks it
            total = self._bytes[layer][1]
            self._bytes[layer] = (total, total)
        return True

    def text(self) -> str:
        """The progress as text: `fetching the image: 3 of 12 layers, 1.2 of 9.8 GB`."""
        current = sum(here for here, _ in self._bytes.values()) / 1e9
        total = sum(size for _, size in self._bytes.values()) / 1e9
        layers = f"fetching the image: {sum(self._done.values())} of {len(self._done)} layers"
        return f"{layers}, {current:.1f} of {total:.1f} GB" if total else layers


def _address() -> str:
    return os.environ.get("DOCKER_HOST") or "its usual socket"


def _unreachable(error: str) -> str:
    given = os.environ.get("DOCKER_HOST")
    where = f"DOCKER_HOST={given}" if given else "the usual socket, or the current context of the docker command"
    if "Permission denied" in error or "PermissionError" in error:
        return (
            f"this user has no permission to use it ({where}). Join the group docker (`sudo usermod -aG docker $USER`,"
            " then log in again), or run this as root."
        )
    if "paramiko" in error:
        return f"for an engine over ssh ({where}), Docker's SDK for Python needs paramiko: pip install paramiko"
    otherwise = "correct DOCKER_HOST" if given else "install Docker if it is missing"
    return (
        f"none answers ({where}). Start it (`sudo systemctl start docker`), {otherwise}, or use"
        f" plain processes: --runtime process.\nThe SDK's message: {error}"
    )
