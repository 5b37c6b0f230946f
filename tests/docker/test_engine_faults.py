"""A Docker engine that is killed while a server starts, and one whose disk is full, with a second engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from testbed import image
from testbed.image import Image
from tests.polling import eventually
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .command import TIMEOUT_S, Command
from .fake_server import LOADING_LINE
from .helpers import found, is_loading
from .second_engine import SecondEngine, unsupported

pytestmark = pytest.mark.usefixtures("unclosed_sockets")


@pytest.fixture(scope="module")
def second(plain_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondEngine]:
    """A second engine that has the image of the fake server."""
    if reason := unsupported():
        pytest.skip(reason)
    with SecondEngine(tmp_path_factory.mktemp("engine")) as made:
        client = made.client()
        assert image.build(client, Path(sys.executable)) == plain_image
        client.close()
        yield made


@pytest.fixture
def client(second: SecondEngine) -> Iterator[DockerClient]:
    client = second.client()
    yield client
    for container in client.containers.list(all=True):
        container.remove(force=True)
    client.close()


@pytest.fixture
def command(second: SecondEngine, loading: Server, tmp_path: Path) -> Command:
    return Command(tmp_path, loading, engine=second.url)


def test_up_on_a_full_disk_is_explained_and_starts_nothing(
    second: SecondEngine, client: DockerClient, command: Command
) -> None:
    with second.full_disk():
        printed = command.run("up", status=1)
    assert "the disk is full; `docker system df` shows what fills it" in printed
    assert client.containers.list(all=True) == []


def test_status_logs_and_down_work_after_the_disk_is_full(
    second: SecondEngine, client: DockerClient, command: Command, loading: Server
) -> None:
    command.run("up", "--no-wait")
    assert eventually(lambda: is_loading(client, loading))
    with second.full_disk():
        assert command.status(loading)["state"] == "starting"
        assert LOADING_LINE in command.run("logs", loading.name)
        command.run("down", loading.name)
    assert client.containers.list(all=True) == []


def test_engine_killed_during_up_is_explained(
    second: SecondEngine, client: DockerClient, command: Command, loading: Server
) -> None:
    with command.start("up") as launcher:
        assert eventually(lambda: is_loading(client, loading))
        second.kill()
        try:
            printed, _ = launcher.communicate(timeout=TIMEOUT_S)
            assert launcher.returncode == 1
            assert f"none answers (DOCKER_HOST={second.url})" in printed
            assert f"Not ready, and not stopped: {loading.name}." in printed
            assert f"vllm-launch down {loading.name}" in printed
            assert "Containers are left out" in command.run("status")
        finally:
            second.start()
    assert found(Containers(client), loading).state == "exited"
    command.run("down", loading.name)
    assert client.containers.list(all=True) == []
