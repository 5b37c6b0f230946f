"""Faults of containers on a real Docker engine: each has one clear message and leaves nothing behind."""

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
from tests.polling import eventually
from vllm_launch import up
from vllm_launch.runtimes.base import Instance, LaunchError
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .fake_server import FAILING_LINE, FIRST_LINE
from .helpers import HERE, answers, fake_server, found, ignore, name_of, started
from .registry import Registry
from .relay import Relay


def names(engine: DockerClient) -> list[str]:
    return [str(container.name) for container in engine.containers.list(all=True)]


def prepare_error(runtime: Containers, server: Server) -> str:
    """The error of `prepare`."""
    with pytest.raises(LaunchError) as raised:
        runtime.prepare(server, ignore)
    return str(raised.value)


def start_error(runtime: Containers, server: Server) -> str:
    """The error of `start`, which leaves no container behind."""
    with pytest.raises(LaunchError) as raised:
        runtime.start(server)
    assert server.name not in [instance.name for instance in runtime.instances()]
    return str(raised.value)


def unmanaged(engine: DockerClient, image: Image, what: str, port: int | None = None) -> str:
    """Run a container that this launcher did not start. Returns its name."""
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in image.volumes]
    command = ["python3", "-c", "import signal; signal.pause()"]
    ports = {"80/tcp": ("127.0.0.1", port)} if port else {}
    engine.containers.run(image.tag, command, name=name_of(what), mounts=mounts, ports=ports, init=True, detach=True)
    return name_of(what)


def test_image_is_pulled_once_with_progress(engine: DockerClient, runtime: Containers) -> None:
    reports: list[str] = []
    with Registry(layers=3) as registry:
        server = Server(name=name_of("pulled"), model="m", port=1, image=registry.image)
        runtime.prepare(server, reports.append)
        first_reports = list(reports)
        runtime.prepare(server, reports.append)
        engine.images.remove(registry.image)
    assert first_reports[0] == f"fetching {registry.image}"
    assert "3 of 3 layers" in first_reports[-1]
    assert reports == first_reports, "the second prepare pulls nothing"


def test_missing_image_is_explained(runtime: Containers) -> None:
    with Registry() as registry:
        message = prepare_error(runtime, Server(name=name_of("x"), model="m", port=1, image=registry.missing_image))
        assert message.startswith(f"The image {registry.missing_image} can't be fetched: there is no such image")


def test_corrupt_image_is_explained(runtime: Containers) -> None:
    with Registry(broken=True) as registry:
        message = prepare_error(runtime, Server(name=name_of("x"), model="m", port=1, image=registry.image))
        assert message.startswith(f"The image {registry.image} can't be fetched")


def test_unreachable_registry_is_explained(runtime: Containers) -> None:
    message = prepare_error(runtime, Server(name=name_of("x"), model="m", port=1, image="127.0.0.1:9/nothing:v1"))
    assert "the registry can't be reached" in message
    assert "docker save" in message


def test_image_removed_after_prepare_is_explained(runtime: Containers) -> None:
    message = start_error(runtime, Server(name=name_of("x"), model="m", port=1, image="never-fetched:v1"))
    assert "there is no such image" in message


def test_name_of_an_unmanaged_container_is_explained(
    runtime: Containers, engine: DockerClient, plain_image: Image
) -> None:
    name = unmanaged(engine, plain_image, "taken")
    try:
        server = fake_server(plain_image, "taken")
        for message in (prepare_error(runtime, server), start_error(runtime, server)):
            assert "a container of this name is there that this launcher did not start" in message
            assert f"docker rm -f {name}" in message
    finally:
        engine.containers.get(name).remove(force=True)


def test_port_of_another_server_is_explained(runtime: Containers, plain_image: Image) -> None:
    first = fake_server(plain_image, "first")
    started(runtime, first)
    second = fake_server(plain_image, "second", port=first.port)
    for message in (prepare_error(runtime, second), start_error(runtime, second)):
        assert f"its port {first.port} is taken by the server {first.name}" in message
        assert f"vllm-launch down {first.name}" in message


def test_port_of_an_unmanaged_container_is_explained(
    runtime: Containers, engine: DockerClient, plain_image: Image
) -> None:
    server = fake_server(plain_image, "second")
    name = unmanaged(engine, plain_image, "port-holder", server.port)
    try:
        assert f"is taken by the container {name}" in prepare_error(runtime, server)
        assert f"docker stop {name}" in start_error(runtime, server)
    finally:
        engine.containers.get(name).remove(force=True)


def test_port_of_another_program_is_explained(runtime: Containers, plain_image: Image) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = fake_server(plain_image, "second", port=listener.getsockname()[1])
        for message in (prepare_error(runtime, server), start_error(runtime, server)):
            assert f"its port {server.port} is taken by process {os.getpid()}" in message


def test_replaced_server_does_not_conflict_with_itself(runtime: Containers, plain_image: Image) -> None:
    server = fake_server(plain_image, "replaced")
    instance = started(runtime, server)
    changed = server.model_copy(update={"env": {"A": "1"}})
    runtime.prepare(changed, ignore)
    runtime.stop(instance, 1)
    started(runtime, changed)
    assert found(runtime, server).server == changed


def test_move_to_a_port_in_use_is_rejected_while_the_server_runs(runtime: Containers, plain_image: Image) -> None:
    first, other = fake_server(plain_image, "first"), fake_server(plain_image, "other")
    started(runtime, first)
    started(runtime, other)
    assert f"is taken by the server {other.name}" in prepare_error(
        runtime, first.model_copy(update={"port": other.port})
    )
    assert answers(first)


def test_gpu_on_a_machine_without_one_is_explained(
    runtime: Containers, engine: DockerClient, plain_image: Image
) -> None:
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this engine supports GPUs")
    server = fake_server(plain_image, "gpu", gpus=(0,))
    for message in (prepare_error(runtime, server), start_error(runtime, server)):
        assert "Install the NVIDIA Container Toolkit" in message
        assert "vllm-llm-cpu" in message


def test_missing_folder_is_rejected_and_not_created(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    missing = tmp_path / "models"
    server = fake_server(plain_image, "folder", volumes={str(missing): "/models"})
    for message in (prepare_error(runtime, server), start_error(runtime, server)):
        assert str(missing) in message
        assert "does not exist" in message
    assert not missing.exists()


def test_host_that_is_no_address_of_the_machine_is_explained(runtime: Containers, plain_image: Image) -> None:
    assert "its host is no address" in start_error(runtime, fake_server(plain_image, "host", host="203.0.113.9"))


def test_empty_key_file_never_starts_a_server_without_a_key(
    runtime: Containers, plain_image: Image, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-here\n")
    server = fake_server(plain_image, "key", api_key_file=key_file)
    key_file.write_text("\n")
    assert "is empty" in prepare_error(runtime, server)
    instance = runtime.start(server)  # as if the file became empty after prepare
    assert "empty" in "\n".join(runtime.follow(instance))
    assert answers(server) is None


def test_server_that_fails_during_start_is_explained_and_keeps_its_log(runtime: Containers, plain_image: Image) -> None:
    server = fake_server(plain_image, "failing", model="failing")
    with pytest.raises(LaunchError) as failed:
        up.up(runtime, [server], lambda _: None)
    assert "ended while it was starting, with status 1" in str(failed.value)
    assert FAILING_LINE in str(failed.value)
    assert found(runtime, server).state == "exited"
    assert FAILING_LINE in runtime.log(found(runtime, server))


def test_second_of_two_concurrent_launchers_gets_an_error(
    engine: DockerClient, runtime: Containers, plain_image: Image
) -> None:
    server = fake_server(plain_image, "twice")
    barrier = threading.Barrier(2)

    def launch() -> Instance | str:
        own = Containers(docker.from_env())
        try:
            barrier.wait()
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
    assert eventually(lambda: answers(server)), "the server of the first launcher runs"


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


def test_killed_launcher_leaves_only_kept_servers(
    runtime: Containers, engine: DockerClient, plain_image: Image
) -> None:
    kept, unready = fake_server(plain_image, "kept"), fake_server(plain_image, "unready")
    command = [sys.executable, "-c", _LAUNCHER, kept.model_dump_json(), unready.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent.parent) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"started\n"
        assert {kept.name, unready.name} <= set(names(engine))
        launcher.send_signal(signal.SIGKILL)
    assert eventually(lambda: unready.name not in names(engine))
    assert found(runtime, kept).state == "running"


@pytest.mark.usefixtures("unclosed_sockets")
def test_engine_that_stops_answering_is_explained(engine: DockerClient, plain_image: Image, tmp_path: Path) -> None:
    with Relay(tmp_path / "engine.sock", _socket_of(engine)) as relay:
        runtime = Containers(DockerClient(base_url=relay.url))
        server = fake_server(plain_image, "orphan")
        instance = started(runtime, server)
        lines = runtime.follow(instance)
        assert next(lines) == FIRST_LINE.format(model="ready")
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


@pytest.mark.usefixtures("unclosed_sockets")
def test_missing_engine_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LaunchError) as refused:
        Containers()
    assert f"none answers (DOCKER_HOST=unix://{tmp_path}/none.sock)" in str(refused.value)
    assert "systemctl start docker" in str(refused.value)


def _socket_of(engine: DockerClient) -> str:
    given = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not given.startswith("unix://"):
        pytest.skip(f"the engine does not listen on a socket: {given}")
    return given.removeprefix("unix://")
