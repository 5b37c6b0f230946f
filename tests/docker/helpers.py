"""Helpers of the tests in this folder: the fake vLLM server in a container, and polling of containers and servers."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from docker import DockerClient

from testbed.image import Image
from tests.polling import eventually
from vllm_launch.runtimes.base import Instance
from vllm_launch.runtimes.containers import Containers
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

from .fake_server import LOADING_LINE

HERE = Path(__file__).parent
PREFIX = f"test-{os.getpid()}-"


def name_of(what: str) -> str:
    """A container name that only this test run uses."""
    return PREFIX + what


def fake_server(image: Image, what: str, **changes: Any) -> Server:
    """The description of a fake vLLM server (`fake_server.py`). `changes`: fields of `Server`."""
    described: dict[str, Any] = {
        "name": name_of(what),
        "model": "ready",
        "port": free_ports(1)[0],
        "image": image.tag,
        "entrypoint": ("python3", str(HERE / "fake_server.py")),
        "volumes": {**image.volumes, str(HERE): f"{HERE}:ro"},
        "shm_size": "64m",
    }
    return Server.model_validate({**described, **changes})


def ignore(_: str) -> None:
    """A `report` callback that does nothing."""


def started(runtime: Containers, server: Server) -> Instance:
    """Start a server and wait until it answers."""
    runtime.prepare(server, ignore)
    instance = runtime.start(server)
    assert eventually(lambda: answers(server)), runtime.log(instance)
    return instance


def found(runtime: Containers, server: Server) -> Instance:
    """The current state of a server in the engine."""
    return next(instance for instance in runtime.instances() if instance.name == server.name)


def answers(server: Server, path: str = "/health") -> httpx.Response | None:
    """The server's reply to a GET, or None without one."""
    try:
        return httpx.get(server.base_url + path, trust_env=False, timeout=30)
    except httpx.HTTPError:
        return None


def is_loading(engine: DockerClient, server: Server) -> bool:
    """Whether a fake server with the model `loading` has written its progress."""
    found = engine.containers.list(filters={"name": server.name}, ignore_removed=True)
    return any(LOADING_LINE in container.logs().decode() for container in found)


def command(server: Server, path: str) -> None:
    """Send a command to a fake server: `exit`, `fail-health` or `stop-listening`."""
    try:
        httpx.post(f"{server.base_url}/{path}", trust_env=False, timeout=30)
    except httpx.HTTPError:
        assert path != "fail-health"


@contextlib.contextmanager
def unclosed_sockets_ignored() -> Iterator[None]:
    """Ignores warnings about sockets: the SDK does not close one that failed to connect or that the engine closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
