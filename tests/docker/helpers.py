"""What several test files of this folder need: the stand-in as a server, and waiting for something to come true."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from docker import DockerClient

from testbed.image import Image
from vllm_launch.runtimes.base import Instance
from vllm_launch.runtimes.containers import Containers
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

from .stand_in import LOADING_WORDS

HERE = Path(__file__).parent
PREFIX = f"test-{os.getpid()}-"
_T = TypeVar("_T")


def name_of(what: str) -> str:
    """A container's name that only this run of the tests has."""
    return PREFIX + what


def stand_in(image: Image, what: str, **changes: Any) -> Server:
    """A server that starts in a moment (`stand_in.py`), under a name of these tests."""
    described: dict[str, Any] = {
        "name": name_of(what),
        "model": "lives",
        "port": free_ports(1)[0],
        "image": image.tag,
        "entrypoint": ("python3", str(HERE / "stand_in.py")),
        "volumes": {**image.volumes, str(HERE): f"{HERE}:ro"},
        "shm_size": "64m",
    }
    return Server.model_validate({**described, **changes})


def ignore(_: str) -> None:
    """Reports that no test reads."""


def started(runtime: Containers, server: Server) -> Instance:
    """The server, once it answers."""
    runtime.prepare(server, ignore)
    instance = runtime.start(server)
    assert eventually(lambda: answers(server)), runtime.log(instance)
    return instance


def found(runtime: Containers, server: Server) -> Instance:
    """The server as the engine has it now."""
    return next(instance for instance in runtime.instances() if instance.name == server.name)


def eventually(look: Callable[[], _T], within: float = 30.0) -> _T:
    """The first answer that is true, asked ten times a second; the last one where none is in time."""
    deadline = time.monotonic() + within
    while not (answer := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def answers(server: Server, path: str = "/health") -> httpx.Response | None:
    """What the server answers; None where it does not."""
    try:
        return httpx.get(server.base_url + path, trust_env=False)
    except httpx.HTTPError:
        return None


def is_loading(engine: DockerClient, server: Server) -> bool:
    """Whether a stand-in that loads has got so far."""
    there = engine.containers.list(filters={"name": server.name}, ignore_removed=True)
    return any(LOADING_WORDS in container.logs().decode() for container in there)


def told(server: Server, what: str) -> None:
    """Tell the stand-in to `die`, to `sicken` or to `hang`."""
    try:
        httpx.post(f"{server.base_url}/{what}", trust_env=False)
    except httpx.HTTPError:
        assert what != "sicken"


@contextlib.contextmanager
def sockets_forgotten() -> Iterator[None]:
    """The SDK does not close a socket that it could not connect, or that the engine has left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
