"""A Docker engine of this machine for the tests that need one, and images for it, made without a registry.

`vllm_image` runs the test bed's vLLM and its models, `plain_image` any Python script. Containers of these tests are
named `name_of(…)`; one that is still there at the end is a failure.
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

from .helpers import PREFIX, name_of, sockets_forgotten, stand_in


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine that the `docker` command would speak to. Its containers of these tests are gone in the end."""
    client = _connected()
    if isinstance(client, str):
        pytest.skip(f"no Docker engine answers: {client}")
    if not client.api.base_url.startswith("http+docker:"):
        pytest.skip(f"the Docker engine at {client.api.base_url} can't mount folders of this machine")
    yield client
    left = [container for container in client.containers.list(all=True) if str(container.name).startswith(PREFIX)]
    for container in left:
        container.remove(force=True, v=True)
    client.close()
    assert [container.name for container in left] == [], "containers were left behind"


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The launcher's state folder is these tests' own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def runtime(engine: DockerClient) -> Iterator[Containers]:
    """The runtime; what a test has started with it is removed after the test."""
    runtime = Containers(engine)
    yield runtime
    for instance in runtime.instances():
        if instance.name.startswith(PREFIX):
            runtime.stop(instance, 1)


@pytest.fixture(scope="session")
def plain_image(engine: DockerClient) -> Image:
    """An image whose `python3` is the one of these tests."""
    return _tried(engine, image.build(engine, Path(sys.executable)))


@pytest.fixture
def loads(plain_image: Image) -> Server:
    """A description of one that never gets beyond loading."""
    return stand_in(plain_image, "loads", model="loads")


@pytest.fixture(scope="session")
def vllm_image(engine: DockerClient) -> Image:
    """An image whose `python3` has vLLM; the models and templates of the test bed lie at their own paths."""
    if os.environ.get("VLLM_TESTS") == "off":
        pytest.skip("VLLM_TESTS=off: no real vLLM server is started")
    try:
        python = environment.prepare()
        models.prepare(python, (models.SMOLLM2, models.MINILM))
        return _tried(engine, image.build(engine, python))
    except TestbedError as error:
        pytest.fail(f"No real vLLM server to test with. {error}", pytrace=False)


@pytest.fixture
def forgotten_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests in which the engine does not answer."""
    request.applymarker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
    yield
    with sockets_forgotten():
        pass


def _connected() -> DockerClient | str:
    """A client, or why there is none."""
    with sockets_forgotten():
        try:
            client = docker.from_env(timeout=60)
            client.ping()
            return client
        except DockerException as error:
            return str(error)


def _tried(engine: DockerClient, made: Image) -> Image:
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in made.volumes]
    try:
        engine.containers.run(made.tag, ["python3", "-c", ""], name=name_of("try"), mounts=mounts, remove=True)
    except APIError as error:
        if "bind source path does not exist" in str(error):
            pytest.skip(f"the Docker engine does not see this machine's folders: {error.explanation}")
        raise
    return made
