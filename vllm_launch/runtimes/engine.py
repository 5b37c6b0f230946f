"""The Docker engine: a connection to it, what its errors mean in words, and fetching an image with progress.

The SDK tells three kinds of faults apart badly: an engine that is not there, a refusal with the engine's own sentence,
and a stream that carries an error in its middle. `speaking` turns all of them into `LaunchError`: `REFUSALS` has a row
for each sentence that people meet.
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

# What the SDK calls a socket (docker/api/client.py); an engine that it speaks to by ssh is `http+docker://ssh`.
_SOCKETS = ("http+docker://localhost", "http+docker://localnpipe")

_USUAL_SOCKET = Path("/var/run/docker.sock")

TIMEOUT_S = 60
"""How long the engine may take for an answer (seconds): a loaded one starts a container in some ten."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the engine says when it refuses something, and what it means."""

    says: str
    """A regular expression that its sentence holds, whatever the case."""
    means: str
    """In words, with what to do about it. `{0}`: the first group of `says`."""

    def explain(self, sentence: str) -> str | None:
        """What the sentence means, if it is this one."""
        found = re.search(self.says, sentence, re.IGNORECASE)
        return self.means.format(*found.groups()) if found else None


NO_GPU = (
    "the Docker engine has no way to give a container an NVIDIA GPU. Install the NVIDIA Container Toolkit there,"
    " run `nvidia-ctk runtime configure --runtime=docker`, and restart Docker. Without a GPU: the CPU servers,"
    " vllm-launch up vllm-llm-cpu vllm-embed-cpu"
)

# In the words of moby 20.10 to 28, its registries' and runc's, and libnvidia-container's.
REFUSALS = (
    Refusal(r"could not select device driver|unresolvable CDI devices|unknown or invalid runtime name: nvidia", NO_GPU),
    Refusal(r"nvidia.*(unknown device|device error)", "it is to have a GPU that is not there; `nvidia-smi` lists them"),
    Refusal(
        r"nvidia-container|nvml error", "the NVIDIA driver of the engine's machine does not work; try `nvidia-smi`"
    ),
    Refusal(r"cannot assign requested address", "its host is no address of the engine's machine; 127.0.0.1 always is"),
    Refusal(r"invalid IP address|invalid.*host.*ip", "its host must be an address, as 127.0.0.1 or 0.0.0.0"),
    Refusal(
        r"source path does not exist: (\S+)",
        "the folder or file {0}, which it mounts, does not exist on the engine's machine. Make it, or correct the path",
    ),
    Refusal(r"no space left on device|disk quota exceeded", "the disk is full; `docker system df` shows what fills it"),
    Refusal(r'exec: "([^"]*)":.*(?:not found|no such file)', "its image has no program {0}, which is to start it"),
    Refusal(
        r"exec format error|no match(?:ing manifest)? for|does not match the specified platform",
        "its image is for another kind of processor",
    ),
    Refusal(r"error setting rlimit", "the engine may not set a limit that it asks for; is it a rootless one?"),
    Refusal(
        r"toomanyrequests|rate limit", "the registry gives out no more for now; wait, or log in with `docker login`"
    ),
    Refusal(
        r"dial tcp|no such host|i/o timeout|Client\.Timeout|TLS handshake|connection refused|unreachable|proxyconnect",
        "the registry can't be reached from the engine's machine. Check its network and its proxy settings, or bring"
        " the image there with `docker save` and `docker load`",
    ),
    Refusal(
        r"repository does not exist|manifest unknown|manifest for .* not found|pull access denied|invalid reference"
        r"|no such image|unauthorized|\bdenied\b",
        "there is no such image, or it needs `docker login`. Check its name and its tag",
    ),
)


def connect(timeout: int = TIMEOUT_S) -> DockerClient:
    """A client of the engine that the `docker` command would speak to: `DOCKER_HOST`, or the current context.

    Raises `LaunchError` where the SDK is missing or no engine answers.
    """
    try:
        import docker
    except ImportError as error:
        raise LaunchError("Containers need Docker's SDK for Python: pip install 'ollama-compat[launch]'") from error
    with speaking("The Docker engine can't be used"):
        return docker.from_env(timeout=timeout)


def is_expected() -> bool:
    """Whether this machine looks as if it had an engine, or is told of one."""
    return bool(os.environ.get("DOCKER_HOST")) or _USUAL_SOCKET.exists() or shutil.which("dockerd") is not None


@contextlib.contextmanager
def speaking(failure: str) -> Iterator[None]:
    """Turn what the SDK raises inside into `LaunchError`; `failure` says what could not be done."""
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


def refused(failure: str, sentence: str) -> str:
    """The message for what the engine refused with this sentence."""
    for refusal in REFUSALS:
        if meaning := refusal.explain(sentence):
            return f"{failure}: {meaning}.\nDocker says: {sentence.strip()}"
    return f"{failure}. Docker says: {sentence.strip()}"


def is_local(client: DockerClient) -> bool:
    """Whether the engine is reached by a socket of this machine, so that its folders are this machine's."""
    return str(client.api.base_url) in _SOCKETS


def require_reachable(client: DockerClient, server: Server, failure: str) -> None:
    """Refuse early what would be waited for in vain: an address of this machine, and an engine of another one."""
    if is_local(client) or not is_loopback(urlsplit(server.base_url).hostname or ""):
        return
    engine = urlsplit(client.api.base_url).hostname
    if not is_loopback(engine or ""):
        raise LaunchError(
            f"{failure}: the Docker engine at {_address()} is on another machine, where nobody here can reach"
            f" {server.base_url}. Run vllm-launch there, or give the server an address of that machine as its host, and"
            " an api_key_file: whoever reaches that address may use it."
        )


def require_gpu(client: DockerClient, failure: str) -> None:
    """Refuse early where the engine surely has no GPU to give: before gigabytes of an image are fetched.

    An engine gives GPUs by a runtime of the name `nvidia`, by CDI devices that it has found (Docker 28.2 on), or by the
    toolkit's hook, which it looks for on its own PATH (moby, daemon/nvidia_linux.go). A distant engine's PATH can't be
    seen from here: it refuses when the container starts, in the words of `REFUSALS`.
    """
    with speaking(failure):
        info: dict[str, Any] = client.info()
    devices = info.get("DiscoveredDevices") or []
    found = "nvidia" in (info.get("Runtimes") or {}) or any("nvidia" in str(device.get("ID")) for device in devices)
    if not found and is_local(client) and not shutil.which("nvidia-container-runtime-hook"):
        raise LaunchError(f"{failure}: {NO_GPU}.")


def fetch(client: DockerClient, image: str, report: Report) -> None:
    """Fetch the image if the engine does not have it, telling how far it is."""
    from docker.errors import ImageNotFound

    failure = f"The image {image} can't be fetched"
    with speaking(failure):
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
    """How far an image is fetched, from the events that the engine sends."""

    _done: dict[str, bool] = field(default_factory=dict)
    _bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take one event; whether it changed anything that is worth telling."""
        layer, status = event.get("id"), event.get("status")
        if not isinstance(layer, str) or not isinstance(status, str) or status.startswith("Pulling from"):
            return False
        self._done[layer] = status in ("Pull complete", "Already exists")
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (int(detail["current"]), int(detail["total"]))
        elif layer in self._bytes:  # it has come down whole, and is being checked or unpacked
            total = self._bytes[layer][1]
            self._bytes[layer] = (total, total)
        return True

    def text(self) -> str:
        """As people read it: `fetching the image: 3 of 12 layers, 1.2 of 9.8 GB`."""
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
            f"this user may not speak to it ({where}). Join the group docker (`sudo usermod -aG docker $USER`, then log"
            " in again), or run this as root."
        )
    if "paramiko" in error:
        return f"to reach one by ssh ({where}), Docker's SDK for Python needs paramiko: pip install paramiko"
    otherwise = "correct DOCKER_HOST" if given else "install Docker where there is none"
    return (
        f"none answers ({where}). Start it (`sudo systemctl start docker`), {otherwise}, or use"
        f" plain processes: --runtime process.\nThe SDK says: {error}"
    )
