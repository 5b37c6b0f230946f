"""The container runtime on a real Docker engine, with a fake vLLM server: start, find, keep, watch and remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker import DockerClient

import vllm_launch.container as shared
from testbed.image import Image
from tests.polling import eventually
from vllm_launch import ready, status
from vllm_launch.runtimes.container_guard import sweep
from vllm_launch.runtimes.container_spec import DIGEST_LABEL, LAUNCHER_LABEL
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .fake_server import EXIT_LINE, FAILING_LINE, FIRST_LINE
from .helpers import answers, command, fake_server, found, started


def test_server_listens_only_on_this_machine(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    server = fake_server(plain_image, "port")
    instance = started(runtime, server)
    bound = engine.containers.get(instance.id).ports
    assert bound == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(server.port)}]}


def test_container_has_the_described_settings(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    instance = started(runtime, fake_server(plain_image, "described", env={"HF_HUB_OFFLINE": "1"}))
    container = engine.containers.get(instance.id)
    host = container.attrs["HostConfig"]
    assert host["ShmSize"] == 64 * 2**20
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["LogConfig"] == {"Type": "json-file", "Config": shared.LOG_OPTIONS}
    assert all(not mount["RW"] for mount in container.attrs["Mounts"])
    assert "HF_HUB_OFFLINE=1" in container.attrs["Config"]["Env"]
    assert container.attrs["Config"]["StopTimeout"] == instance.server.stop_grace


def test_another_launcher_finds_a_server_with_its_description(
    runtime: Containers, plain_image: Image, engine: DockerClient, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-of-this-test")
    server = fake_server(plain_image, "found", api_key_file=key_file, env={"A": "1"}, served_model_name=("a", "b"))
    started(runtime, server)
    instance = found(Containers(engine), server)
    assert (instance.server, instance.state, instance.ended) == (server, "running", "")
    assert engine.containers.get(server.name).labels[DIGEST_LABEL] == server.digest


def test_api_key_reaches_the_server_and_is_not_visible(
    runtime: Containers, plain_image: Image, engine: DockerClient, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-of-this-test\n")
    server = fake_server(plain_image, "key", api_key_file=key_file)
    instance = started(runtime, server)
    environment = answers(server, "/environment")
    container = engine.containers.get(instance.id)
    assert environment is not None
    assert environment.json()["VLLM_API_KEY"] == "sk-of-this-test"
    assert "sk-of-this-test" not in str(container.attrs), "docker inspect"
    assert "sk-of-this-test" not in str(container.top(ps_args="-ef")), "docker top"
    assert "sk-of-this-test" not in runtime.log(instance), "docker logs"


def test_hub_token_is_only_in_a_file_of_the_container(
    runtime: Containers, plain_image: Image, engine: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    server = fake_server(plain_image, "token")
    instance = started(runtime, server)
    environment = answers(server, "/environment")
    container = engine.containers.get(instance.id)
    assert environment is not None
    path = environment.json()["HF_TOKEN_PATH"]
    assert container.exec_run(["cat", path]).output == b"hf_of_this_test"
    assert "HF_TOKEN" not in environment.json()
    assert "hf_of_this_test" not in str(container.attrs)


def test_stop_removes_the_container_but_not_its_volume(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    server = fake_server(plain_image, "stopped")
    volume = engine.volumes.create(f"{server.name}-models")
    try:
        server = server.model_copy(update={"volumes": {**server.volumes, str(volume.name): "/models"}})
        instance = started(runtime, server)
        runtime.stop(instance, 5)
        assert server.name not in [instance.name for instance in runtime.instances()]
        assert answers(server) is None
        assert engine.volumes.get(str(volume.name))
        runtime.stop(instance, 5)  # a second stop has no effect
    finally:
        volume.remove()


def test_failed_server_keeps_its_status_and_log(runtime: Containers, plain_image: Image) -> None:
    server = fake_server(plain_image, "failing", model="failing")
    instance = runtime.start(server)
    # The log ends when the container does.
    assert list(runtime.follow(instance)) == [FIRST_LINE.format(model="failing"), FAILING_LINE]
    now = eventually(lambda: [each for each in [found(runtime, server)] if each.state == "exited"])[0]
    assert now.ended == "with status 1"
    assert runtime.log(now, 1) == FAILING_LINE + "\n"


def test_killed_server_reports_the_signal(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    server = fake_server(plain_image, "killed")
    instance = started(runtime, server)
    engine.containers.get(instance.id).kill("SIGKILL")
    engine.containers.get(instance.id).wait()
    assert found(runtime, server).ended.startswith("by SIGKILL")


def test_follow_returns_lines_as_they_are_written(runtime: Containers, plain_image: Image) -> None:
    server = fake_server(plain_image, "followed")
    instance = started(runtime, server)
    lines = runtime.follow(instance)
    assert next(lines) == FIRST_LINE.format(model="ready")
    command(server, "exit")
    assert list(lines) == [EXIT_LINE]


def test_engine_restarts_a_kept_server(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    server = fake_server(plain_image, "kept")
    instance = started(runtime, server)
    runtime.keep(instance)
    command(server, "exit")
    assert eventually(lambda: engine.containers.get(instance.id).attrs["RestartCount"]) == 1
    assert eventually(lambda: answers(server))
    assert found(runtime, server).state == "running"


def test_engine_does_not_restart_a_server_that_is_not_kept(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    server = fake_server(plain_image, "unkept")
    instance = started(runtime, server)
    command(server, "exit")
    engine.containers.get(instance.id).wait()
    assert found(runtime, server).ended == "with status 3"
    assert engine.containers.get(instance.id).attrs["RestartCount"] == 0


def test_guard_removes_only_running_servers_that_are_not_kept(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    kept, unready = fake_server(plain_image, "guard-kept"), fake_server(plain_image, "guard-unready")
    ended = fake_server(plain_image, "guard-ended", model="failing")
    runtime.keep(started(runtime, kept))
    started(runtime, unready)
    engine.containers.get(runtime.start(ended).id).wait()
    sweep(f"{LAUNCHER_LABEL}={engine.containers.get(kept.name).labels[LAUNCHER_LABEL]}")
    assert found(runtime, kept).state == "running"
    assert FAILING_LINE in runtime.log(found(runtime, ended)), "the log of a failed server remains"
    assert unready.name not in [instance.name for instance in runtime.instances()]


def test_docker_health_follows_the_server(
    runtime: Containers, plain_image: Image, engine: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_second(server: Server) -> shared.HealthCheck:
        return shared.HealthCheck(check(server).command, interval=1, timeout=60, retries=2, start_period=60)

    check = shared.health_check
    monkeypatch.setattr(shared, "health_check", every_second)
    server = fake_server(plain_image, "health")
    instance = started(runtime, server)
    container = engine.containers.get(instance.id)

    def health() -> str:
        container.reload()
        return container.health

    assert eventually(lambda: health() == "healthy")
    assert found(runtime, server).unhealthy == ""
    command(server, "stop-listening")
    assert eventually(lambda: health() == "unhealthy")
    assert found(runtime, server).state == "running", "the process runs, but does not answer"
    with ready.client() as http:
        now = status.look(runtime, found(runtime, server), http)
    assert now.state == "unhealthy"
    assert "health checks in a row have failed: ConnectionRefusedError" in now.reason
