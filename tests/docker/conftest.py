"""The Docker engine of this machine and images for it, made without a registry.

`vllm_image` runs the test bed's vLLM and models, `plain_image` any Python script. The tests name their containers
`name_of(…)`; a container that remains at the end is a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker import DockerClient
from docker.errors import APIError, DockerException
from docker.types import Mount

from testbed import environment, image, models
from testbed.image import Image
from testbed.paths import TestbedError
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .helpers import PREFIX, fake_server, name_of, unclosed_sockets_ignored


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine that the `docker` command uses. At the end the containers of these tests are removed."""
    client = _connected()
    if isinstance(client, str):
        pytest.skip(f"no Docker engine is reachable: {client}")
    if not client.api.base_url.startswith("http+docker:"):
        pytest.skip(f"the Docker engine at {client.api.base_url} cannot mount folders of this machine")
    yield client
    remaining = [container for container in client.containers.list(all=True) if str(container.name).startswith(PREFIX)]
    for container in remaining:
        container.remove(force=True, v=True)
    client.close()
    assert [container.name for container in remaining] == [], "containers were left behind"


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The launcher uses a state folder for these tests only."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def runtime(engine: DockerClient) -> Iterator[Containers]:
    """The container runtime. Containers that a test has started are removed after the test."""
    runtime = Containers(engine)
    yield runtime
    for instance in runtime.instances():
        if instance.name.startswith(PREFIX):
            runtime.stop(instance, 1)


@pytest.fixture(scope="session")
def plain_image(engine: DockerClient) -> Image:
    """An image whose `python3` is the one that runs these tests."""
    return _checked(engine, image.build(engine, Path(sys.executable)))


@pytest.fixture
def loading(plain_image: Image) -> Server:
    """The description of a fake server that never gets ready."""
    return fake_server(plain_image, "loading", model="loading")


@pytest.fixture(scope="session")
def vllm_image(engine: DockerClient) -> Image:
    """An image whose `python3` has vLLM. The models and templates of the test bed have the same paths as outside."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    try:
        python = environment.prepare()
        models.prepare(python, (models.SMOLLM2, models.MINILM))
        return _checked(engine, image.build(engine, python))
    except TestbedError as error:
        pytest.fail(f"No real vLLM server to test with. {error}", pytrace=False)


@pytest.fixture
def unclosed_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests whose engine does not answer: see `unclosed_sockets_ignored`."""
    request.applymarker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
    yield
    with unclosed_sockets_ignored():
        pass


def _connected() -> DockerClient | str:
    """A client, or the reason why the engine is unreachable."""
    with unclosed_sockets_ignored():
        try:
            client = docker.from_env(timeout=60)
            client.ping()
            return client
        except DockerException as error:
            return str(error)


def _checked(engine: DockerClient, made: Image) -> Image:
    """The image, after a container has run in it. Skips the test if the engine runs on another machine."""
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in made.volumes]
    try:
        engine.containers.run(made.tag, ["python3", "-c", ""], name=name_of("check"), mounts=mounts, remove=True)
    except APIError as error:
        if "bind source path does not exist" in str(error):
            pytest.skip(f"the Docker engine does not see this machine's folders: {error.explanation}")
        raise
    return made
