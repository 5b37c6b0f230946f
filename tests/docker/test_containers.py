"""Containers on a real engine, with a stand-in for vLLM: how they are made, found, kept, watched and removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker import DockerClient

import vllm_launch.container as shared
from testbed.image import Image
from vllm_launch import ready, status
from vllm_launch.runtimes.container_guard import sweep
from vllm_launch.runtimes.container_spec import DIGEST_LABEL, LAUNCHER_LABEL
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .helpers import answers, eventually, found, stand_in, started, told
from .stand_in import DYING_WORDS


def test_a_server_answers_on_its_port_of_this_machine_alone(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    server = stand_in(plain_image, "port")
    instance = started(runtime, server)
    bound = engine.containers.get(instance.id).ports
    assert bound == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(server.port)}]}


def test_the_engine_is_told_what_is_described(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    instance = started(runtime, stand_in(plain_image, "described", env={"HF_HUB_OFFLINE": "1"}))
    container = engine.containers.get(instance.id)
    host = container.attrs["HostConfig"]
    assert host["ShmSize"] == 64 * 2**20
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["LogConfig"] == {"Type": "json-file", "Config": shared.LOG_OPTIONS}
    assert all(not mount["RW"] for mount in container.attrs["Mounts"])
    assert "HF_HUB_OFFLINE=1" in container.attrs["Config"]["Env"]
    assert container.attrs["Config"]["StopTimeout"] == instance.server.stop_grace


def test_another_launcher_finds_it_as_it_was_described(
    runtime: Containers, plain_image: Image, engine: DockerClient, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-of-this-test")
    server = stand_in(plain_image, "found", api_key_file=key_file, env={"A": "1"}, served_model_name=("a", "b"))
    started(runtime, server)
    instance = found(Containers(engine), server)
    assert (instance.server, instance.state, instance.ended) == (server, "running", "")
    assert engine.containers.get(server.name).labels[DIGEST_LABEL] == server.digest


def test_the_api_key_reaches_the_server_and_is_shown_nowhere(
    runtime: Containers, plain_image: Image, engine: DockerClient, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-of-this-test\n")
    server = stand_in(plain_image, "key", api_key_file=key_file)
    instance = started(runtime, server)
    environment = answers(server, "/environment")
    container = engine.containers.get(instance.id)
    assert environment is not None
    assert environment.json()["VLLM_API_KEY"] == "sk-of-this-test"
    assert "sk-of-this-test" not in str(container.attrs), "docker inspect"
    assert "sk-of-this-test" not in str(container.top(ps_args="-ef")), "docker top"
    assert "sk-of-this-test" not in runtime.log(instance), "docker logs"


def test_the_hubs_token_lies_in_a_file_of_the_container_alone(
    runtime: Containers, plain_image: Image, engine: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    server = stand_in(plain_image, "token")
    instance = started(runtime, server)
    environment = answers(server, "/environment")
    container = engine.containers.get(instance.id)
    assert environment is not None
    path = environment.json()["HF_TOKEN_PATH"]
    assert container.exec_run(["cat", path]).output == b"hf_of_this_test"
    assert "HF_TOKEN" not in environment.json()
    assert "hf_of_this_test" not in str(container.attrs)


def test_stopping_removes_the_container_and_not_its_volume(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    server = stand_in(plain_image, "stopped")
    volume = engine.volumes.create(f"{server.name}-models")
    try:
        server = server.model_copy(update={"volumes": {**server.volumes, str(volume.name): "/models"}})
        instance = started(runtime, server)
        runtime.stop(instance, 5)
        assert server.name not in [instance.name for instance in runtime.instances()]
        assert answers(server) is None
        assert engine.volumes.get(str(volume.name))
        runtime.stop(instance, 5)  # it is gone: harmless
    finally:
        volume.remove()


def test_one_that_dies_is_there_with_its_status_and_its_last_words(runtime: Containers, plain_image: Image) -> None:
    server = stand_in(plain_image, "dies", model="dies")
    instance = runtime.start(server)
    # The log ends when the container does.
    assert list(runtime.follow(instance)) == ["a stand-in for dies", DYING_WORDS]
    now = eventually(lambda: [each for each in [found(runtime, server)] if each.state == "exited"])[0]
    assert now.ended == "with status 1"
    assert runtime.log(now, 1) == DYING_WORDS + "\n"


def test_one_that_is_killed_says_by_which_signal(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    server = stand_in(plain_image, "killed")
    instance = started(runtime, server)
    engine.containers.get(instance.id).kill("SIGKILL")
    engine.containers.get(instance.id).wait()
    assert found(runtime, server).ended.startswith("by SIGKILL")


def test_the_log_is_followed_while_it_is_written(runtime: Containers, plain_image: Image) -> None:
    server = stand_in(plain_image, "followed")
    instance = started(runtime, server)
    lines = runtime.follow(instance)
    assert next(lines) == "a stand-in for lives"
    told(server, "die")
    assert list(lines) == ["told to die"]


def test_what_is_kept_is_started_again_by_the_engine(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    server = stand_in(plain_image, "kept")
    instance = started(runtime, server)
    runtime.keep(instance)
    told(server, "die")
    assert eventually(lambda: engine.containers.get(instance.id).attrs["RestartCount"]) == 1
    assert eventually(lambda: answers(server))
    assert found(runtime, server).state == "running"


def test_what_is_not_kept_is_not_started_again(runtime: Containers, plain_image: Image, engine: DockerClient) -> None:
    server = stand_in(plain_image, "unkept")
    instance = started(runtime, server)
    told(server, "die")
    engine.containers.get(instance.id).wait()
    assert found(runtime, server).ended == "with status 3"
    assert engine.containers.get(instance.id).attrs["RestartCount"] == 0


def test_the_guard_removes_what_was_not_kept_and_leaves_the_rest(
    runtime: Containers, plain_image: Image, engine: DockerClient
) -> None:
    kept, unready = stand_in(plain_image, "guard-kept"), stand_in(plain_image, "guard-unready")
    ended = stand_in(plain_image, "guard-ended", model="dies")
    runtime.keep(started(runtime, kept))
    started(runtime, unready)
    engine.containers.get(runtime.start(ended).id).wait()
    sweep(f"{LAUNCHER_LABEL}={engine.containers.get(kept.name).labels[LAUNCHER_LABEL]}")
    assert found(runtime, kept).state == "running"
    assert DYING_WORDS in runtime.log(found(runtime, ended)), "why it ended can still be read"
    assert unready.name not in [instance.name for instance in runtime.instances()]


def test_docker_shows_whether_the_model_answers_and_that_it_no_longer_does(
    runtime: Containers, plain_image: Image, engine: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_second(server: Server) -> shared.HealthCheck:
        return shared.HealthCheck(check(server).command, interval=1, timeout=5, retries=2, start_period=60)

    check = shared.health_check
    monkeypatch.setattr(shared, "health_check", every_second)
    server = stand_in(plain_image, "health")
    instance = started(runtime, server)
    container = engine.containers.get(instance.id)

    def health() -> str:
        container.reload()
        return container.health

    assert eventually(lambda: health() == "healthy")
    assert found(runtime, server).unhealthy == ""
    told(server, "hang")
    assert eventually(lambda: health() == "unhealthy")
    assert found(runtime, server).state == "running", "it is the model that does not answer"
    with ready.client() as http:
        now = status.look(runtime, found(runtime, server), http)
    assert now.state == "unhealthy"
    assert "health checks in a row have failed: ConnectionRefusedError" in now.reason
