"""An engine that is killed while a server starts, and one whose disk is full: a second one, made for that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from testbed import image
from testbed.image import Image
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .command import Command
from .helpers import eventually, found, is_loading
from .second_engine import SecondEngine, why_not
from .stand_in import LOADING_WORDS

pytestmark = pytest.mark.usefixtures("forgotten_sockets")


@pytest.fixture(scope="module")
def second(plain_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondEngine]:
    """It has the image of the stand-in."""
    if reason := why_not():
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
def command(second: SecondEngine, loads: Server, tmp_path: Path) -> Command:
    return Command(tmp_path, loads, engine=second.url)


def test_a_full_disk_starts_nothing_and_is_named(second: SecondEngine, client: DockerClient, command: Command) -> None:
    with second.full_disk():
        printed = command.run("up", status=1)
    assert "the disk is full; `docker system df` shows what fills it" in printed
    assert client.containers.list(all=True) == []


def test_a_disk_that_fills_up_later_leaves_the_server_its_log_and_its_end(
    second: SecondEngine, client: DockerClient, command: Command, loads: Server
) -> None:
    command.run("up", "--no-wait")
    assert eventually(lambda: is_loading(client, loads))
    with second.full_disk():
        assert command.status(loads)["state"] == "starting"
        assert LOADING_WORDS in command.run("logs", loads.name)
        command.run("down", loads.name)
    assert client.containers.list(all=True) == []


def test_an_engine_that_is_killed_while_a_server_starts(
    second: SecondEngine, client: DockerClient, command: Command, loads: Server
) -> None:
    with command.start("up") as launcher:
        assert eventually(lambda: is_loading(client, loads))
        second.kill()
        try:
            printed, _ = launcher.communicate(timeout=30)
            assert launcher.returncode == 1
            assert f"none answers (DOCKER_HOST={second.url})" in printed
            assert f"Not ready, and not stopped: {loads.name}." in printed
            assert f"vllm-launch down {loads.name}" in printed
            assert "Containers are left out" in command.run("status")
        finally:
            second.start()
    assert found(Containers(client), loads).state == "exited"
    command.run("down", loads.name)
    assert client.containers.list(all=True) == []
