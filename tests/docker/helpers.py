"""What several test files of this folder need: the stand-in as a server, and waiting for something to come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from testbed.image import Image
from vllm_launch.runtimes.base import Instance
from vllm_launch.runtimes.containers import Containers
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

from .conftest import name_of

HERE = Path(__file__).parent
_T = TypeVar("_T")


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


def told(server: Server, what: str) -> None:
    """Tell the stand-in to `die` or to `sicken`."""
    try:
        httpx.post(f"{server.base_url}/{what}", trust_env=False)
    except httpx.HTTPError:
        assert what == "die"
