"""What goes wrong with containers on a real engine: one clear message each, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
from docker import DockerClient
from docker.types import Mount

from testbed.image import Image
from vllm_launch import up
from vllm_launch.runtimes.base import Instance, LaunchError
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .conftest import name_of
from .helpers import HERE, answers, eventually, found, ignore, stand_in, started
from .registry import Registry
from .relay import Relay
from .stand_in import DYING_WORDS


def names(engine: DockerClient) -> list[str]:
    return [str(container.name) for container in engine.containers.list(all=True)]


def refusal(runtime: Containers, server: Server) -> str:
    """Why the server is not prepared."""
    with pytest.raises(LaunchError) as refused:
        runtime.prepare(server, ignore)
    return str(refused.value)


def failure(runtime: Containers, server: Server) -> str:
    """Why the server does not start; its container is not left behind."""
    with pytest.raises(LaunchError) as failed:
        runtime.start(server)
    assert server.name not in [instance.name for instance in runtime.instances()]
    return str(failed.value)


def stranger(engine: DockerClient, image: Image, what: str, port: int | None = None) -> str:
    """A container that this launcher did not start; the engine's fixture removes none of its name."""
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in image.volumes]
    command = ["python3", "-c", "import signal; signal.pause()"]
    ports = {"80/tcp": ("127.0.0.1", port)} if port else {}
    engine.containers.run(image.tag, command, name=name_of(what), mounts=mounts, ports=ports, init=True, detach=True)
    return name_of(what)


def test_an_image_comes_with_progress_by_layers(engine: DockerClient, runtime: Containers) -> None:
    told: list[str] = []
    with Registry(layers=3) as registry:
        server = Server(name=name_of("pulled"), model="m", port=1, image=registry.image)
        runtime.prepare(server, told.append)
        told_at_once = list(told)
        runtime.prepare(server, told.append)
        engine.images.remove(registry.image)
    assert told_at_once[0] == f"fetching {registry.image}"
    assert "3 of 3 layers" in told_at_once[-1]
    assert told == told_at_once, "it is fetched once"


def test_an_image_that_does_not_exist(runtime: Containers) -> None:
    with Registry() as registry:
        message = refusal(runtime, Server(name=name_of("x"), model="m", port=1, image=registry.missing_image))
        assert message.startswith(f"The image {registry.missing_image} can't be fetched: there is no such image")


def test_an_image_whose_bytes_are_broken_on_the_way(runtime: Containers) -> None:
    with Registry(broken=True) as registry:
        message = refusal(runtime, Server(name=name_of("x"), model="m", port=1, image=registry.image))
        assert message.startswith(f"The image {registry.image} can't be fetched")


def test_a_registry_that_is_not_there(runtime: Containers) -> None:
    message = refusal(runtime, Server(name=name_of("x"), model="m", port=1, image="127.0.0.1:9/nothing:v1"))
    assert "the registry can't be reached" in message
    assert "docker save" in message


def test_an_image_that_is_gone_since_it_was_prepared(runtime: Containers) -> None:
    message = failure(runtime, Server(name=name_of("x"), model="m", port=1, image="never-fetched:v1"))
    assert "there is no such image" in message


def test_a_name_that_a_strangers_container_has(runtime: Containers, engine: DockerClient, plain_image: Image) -> None:
    name = stranger(engine, plain_image, "taken")
    try:
        server = stand_in(plain_image, "taken")
        for message in (refusal(runtime, server), failure(runtime, server)):
            assert "a container of this name is there that this launcher did not start" in message
            assert f"docker rm -f {name}" in message
    finally:
        engine.containers.get(name).remove(force=True)


def test_a_port_that_another_server_has(runtime: Containers, plain_image: Image) -> None:
    first = stand_in(plain_image, "first")
    started(runtime, first)
    second = stand_in(plain_image, "second", port=first.port)
    for message in (refusal(runtime, second), failure(runtime, second)):
        assert f"its port {first.port} is taken by the server {first.name}" in message
        assert f"vllm-launch down {first.name}" in message


def test_a_port_that_a_strangers_container_has(runtime: Containers, engine: DockerClient, plain_image: Image) -> None:
    server = stand_in(plain_image, "second")
    name = stranger(engine, plain_image, "port-holder", server.port)
    try:
        assert f"is taken by the container {name}" in refusal(runtime, server)
        assert f"docker stop {name}" in failure(runtime, server)
    finally:
        engine.containers.get(name).remove(force=True)


def test_a_port_that_another_program_has(runtime: Containers, plain_image: Image) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = stand_in(plain_image, "second", port=listener.getsockname()[1])
        for message in (refusal(runtime, server), failure(runtime, server)):
            assert f"its port {server.port} is taken by process {os.getpid()}" in message


def test_a_server_that_is_to_be_replaced_does_not_stand_in_its_own_way(runtime: Containers, plain_image: Image) -> None:
    server = stand_in(plain_image, "replaced")
    instance = started(runtime, server)
    changed = server.model_copy(update={"env": {"A": "1"}})
    runtime.prepare(changed, ignore)
    runtime.stop(instance, 1)
    started(runtime, changed)
    assert found(runtime, server).server == changed


def test_a_server_that_is_to_move_to_a_taken_port_is_refused_while_it_still_runs(
    runtime: Containers, plain_image: Image
) -> None:
    first, other = stand_in(plain_image, "first"), stand_in(plain_image, "other")
    started(runtime, first)
    started(runtime, other)
    assert f"is taken by the server {other.name}" in refusal(runtime, first.model_copy(update={"port": other.port}))
    assert answers(first)


def test_a_gpu_where_there_is_none(runtime: Containers, engine: DockerClient, plain_image: Image) -> None:
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this engine gives GPUs to containers")
    server = stand_in(plain_image, "gpu", gpus=(0,))
    for message in (refusal(runtime, server), failure(runtime, server)):
        assert "Install the NVIDIA Container Toolkit" in message
        assert "vllm-llm-cpu" in message


def test_a_folder_that_does_not_exist_is_refused_and_not_made(
    runtime: Containers, plain_image: Image, tmp_path: Path
) -> None:
    missing = tmp_path / "models"
    server = stand_in(plain_image, "folder", volumes={str(missing): "/models"})
    for message in (refusal(runtime, server), failure(runtime, server)):
        assert str(missing) in message
        assert "does not exist" in message
    assert not missing.exists()


def test_an_address_that_the_machine_does_not_have(runtime: Containers, plain_image: Image) -> None:
    assert "its host is no address" in failure(runtime, stand_in(plain_image, "host", host="203.0.113.9"))


def test_a_key_file_that_is_empty_starts_nothing_open(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-here\n")
    server = stand_in(plain_image, "key", api_key_file=key_file)
    key_file.write_text("\n")
    assert "is empty" in refusal(runtime, server)
    instance = runtime.start(server)  # as if it were emptied after it was prepared
    assert "empty" in "\n".join(runtime.follow(instance))
    assert answers(server) is None


def test_a_server_that_dies_while_it_starts_is_explained_and_leaves_its_log(
    runtime: Containers, plain_image: Image
) -> None:
    server = stand_in(plain_image, "dies", model="dies")
    with pytest.raises(LaunchError) as failed:
        up.up(runtime, [server], lambda _: None)
    assert "ended while it was starting, with status 1" in str(failed.value)
    assert DYING_WORDS in str(failed.value)
    assert found(runtime, server).state == "exited"
    assert DYING_WORDS in runtime.log(found(runtime, server))


def test_of_two_launchers_at_once_one_starts_the_server_and_the_other_is_told(
    engine: DockerClient, runtime: Containers, plain_image: Image
) -> None:
    server = stand_in(plain_image, "twice")
    together = threading.Barrier(2)

    def launch() -> Instance | str:
        own = Containers(docker.from_env())
        try:
            together.wait()
            return own.start(server)
        except LaunchError as error:
            return str(error)
        finally:
            own._client.close()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: launch(), range(2)))
    [instance] = [result for result in results if isinstance(result, Instance)]
    [message] = [result for result in results if isinstance(result, str)]
    assert "it is there already, by another launcher" in message
    assert found(runtime, server).id == instance.id
    assert eventually(lambda: answers(server)), "the one that was told has not spoilt it"


_LAUNCHER = """\
import sys
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

runtime = Containers()
for description in sys.argv[1:]:
    instance = runtime.start(Server.model_validate_json(description))
    if "kept" in instance.name:
        runtime.keep(instance)
print("started", flush=True)
sys.stdin.read()
"""


def test_a_launcher_that_is_killed_leaves_what_it_kept_and_nothing_else(
    runtime: Containers, engine: DockerClient, plain_image: Image
) -> None:
    kept, unready = stand_in(plain_image, "kept"), stand_in(plain_image, "unready")
    command = [sys.executable, "-c", _LAUNCHER, kept.model_dump_json(), unready.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent.parent) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"started\n"
        assert {kept.name, unready.name} <= set(names(engine))
        launcher.send_signal(signal.SIGKILL)
    assert eventually(lambda: unready.name not in names(engine))
    assert found(runtime, kept).state == "running"


@pytest.mark.usefixtures("forgotten_sockets")
def test_an_engine_that_goes_away(engine: DockerClient, plain_image: Image, tmp_path: Path) -> None:
    near = tmp_path / "engine.sock"
    with Relay(near, _socket_of(engine)) as relay:
        runtime = Containers(DockerClient(base_url=relay.url))
        server = stand_in(plain_image, "orphan")
        instance = started(runtime, server)
        lines = runtime.follow(instance)
        assert next(lines) == "a stand-in for lives"
        relay.cut()
        for call in (
            lambda: next(lines),
            runtime.instances,
            lambda: runtime.stop(instance, 1),
            lambda: runtime.keep(instance),
        ):
            with pytest.raises(LaunchError, match="none answers"):
                call()
        runtime._client.close()
    Containers(engine).stop(instance, 1)


@pytest.mark.usefixtures("forgotten_sockets")
def test_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LaunchError) as refused:
        Containers()
    assert f"none answers (DOCKER_HOST=unix://{tmp_path}/none.sock)" in str(refused.value)
    assert "systemctl start docker" in str(refused.value)


def _socket_of(engine: DockerClient) -> str:
    given = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not given.startswith("unix://"):
        pytest.skip(f"the engine is not at a socket: {given}")
    return given.removeprefix("unix://")
