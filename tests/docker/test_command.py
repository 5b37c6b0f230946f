"""The `vllm-launch` command on a real Docker engine, with a fake vLLM server: its output and its effects."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from testbed.image import Image
from tests.polling import eventually
from vllm_launch.config import load
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .command import TIMEOUT_S, Command
from .fake_server import FAILING_LINE, FIRST_LINE
from .helpers import answers, command, fake_server, found, is_loading, started


@pytest.fixture
def chat(plain_image: Image, engine: DockerClient) -> Iterator[Server]:
    """The description of a server that mounts a volume of models."""
    server = fake_server(plain_image, "chat")
    volume = f"{server.name}-models"
    yield server.model_copy(update={"volumes": {**server.volumes, volume: "/models"}})
    for name in names(engine, server):
        engine.containers.get(name).remove(force=True)
    engine.volumes.get(volume).remove()


def names(engine: DockerClient, *servers: Server) -> list[str]:
    """The names of the servers that have a container."""
    existing = [str(container.name) for container in engine.containers.list(all=True, ignore_removed=True)]
    return [server.name for server in servers if server.name in existing]


def made(engine: DockerClient, server: Server) -> tuple[str, str, dict[str, Any]]:
    """Id, start time and host configuration of a container."""
    attrs = engine.containers.get(server.name).attrs
    return attrs["Id"], attrs["State"]["StartedAt"], attrs["HostConfig"]


def guard_of(launcher: subprocess.Popen[str]) -> int:
    """The process id of the guard, which removes containers that the launcher has not kept."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    [guard] = [int(each) for each in children if b"container_guard" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return guard


def test_up_status_logs_replace_and_down(chat: Server, engine: DockerClient, tmp_path: Path) -> None:
    launch = Command(tmp_path, chat)
    printed = launch.run("up", chat.name)
    assert f"✓ Starting {chat.name}" in printed
    assert f"ready on {chat.base_url}" in printed
    first = made(engine, chat)
    assert first[2]["RestartPolicy"]["Name"] == "unless-stopped"
    assert launch.status(chat)["state"] == "ready"
    assert launch.run("logs", chat.name) == FIRST_LINE.format(model="ready") + "\n"

    assert f"✓ {chat.name} runs as described" in launch.run("up", chat.name)
    assert made(engine, chat) == first, "a second up changes nothing"

    launch.describe(chat.model_copy(update={"env": {"A": "1"}}))
    assert f"{chat.name}: env differs in A" in launch.run("up", status=1)
    assert made(engine, chat) == first, "up without --replace changes nothing"
    launch.run("up", "--replace")
    assert made(engine, chat)[0] != first[0]

    assert launch.run("down", chat.name) == f"Stopping {chat.name}\n"
    assert names(engine, chat) == []
    assert engine.volumes.get(f"{chat.name}-models"), "downloaded models stay"


def test_logs_follow_ends_on_ctrl_c(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    server = fake_server(plain_image, "followed")
    started(runtime, server)
    with Command(tmp_path).start("logs", "--follow", server.name) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == FIRST_LINE.format(model="ready") + "\n"
        follower.send_signal(signal.SIGINT)
        assert (follower.wait(TIMEOUT_S), follower.stdout.read()) == (130, "")
    assert found(runtime, server).state == "running"


def test_ctrl_c_stops_only_the_servers_that_this_command_started(
    chat: Server, loading: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    launch = Command(tmp_path, chat, loading)
    launch.run("up", chat.name)
    before = made(engine, chat)
    with launch.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loading))
        launcher.send_signal(signal.SIGINT)
        printed, _ = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 130
    assert printed.endswith("vllm-launch: interrupted; servers that were still starting have been stopped.\n")
    assert names(engine, chat, loading) == [chat.name]
    assert made(engine, chat) == before


def test_unready_server_of_a_killed_launcher_is_removed_and_others_remain(
    chat: Server, loading: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    launch = Command(tmp_path, chat, loading)
    launch.run("up", chat.name)
    with launch.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loading))
        launcher.kill()
    assert eventually(lambda: names(engine, chat, loading) == [chat.name])
    assert launch.status(chat)["state"] == "ready"


def test_down_stops_a_server_whose_launcher_and_guard_were_killed(
    loading: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    launch = Command(tmp_path, loading)
    with launch.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loading))
        os.kill(guard_of(launcher), signal.SIGKILL)
        launcher.kill()
    assert launch.status(loading)["state"] == "starting"
    assert launch.run("down", loading.name) == f"Stopping {loading.name}\n"
    assert names(engine, loading) == []


def test_next_launcher_adopts_the_server_of_a_lost_one(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    launch = Command(tmp_path, fake_server(plain_image, "lost"))
    [server] = load(tmp_path / "vllm-launch.toml").servers.values()
    started(runtime, server)  # not kept, as by a launcher that ends here
    assert not found(runtime, server).kept
    assert f"✓ {server.name} runs as described" in launch.run("up")
    assert found(runtime, server).kept


def test_two_concurrent_launchers_start_one_server(chat: Server, engine: DockerClient, tmp_path: Path) -> None:
    launch = Command(tmp_path, chat)
    with launch.start("up") as one, launch.start("up") as other:
        outputs = [launcher.communicate(timeout=TIMEOUT_S)[0] for launcher in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), outputs
    assert engine.containers.get(chat.name).attrs["RestartCount"] == 0
    assert launch.status(chat)["state"] == "ready"


def test_engine_restarts_a_server_that_exits_and_status_counts_it(
    chat: Server, engine: DockerClient, tmp_path: Path
) -> None:
    launch = Command(tmp_path, chat)
    launch.run("up")
    command(chat, "exit")
    assert eventually(lambda: engine.containers.get(chat.name).attrs["RestartCount"]) == 1
    assert eventually(lambda: answers(chat))
    row = launch.status(chat)
    assert (row["state"], row["restarts"]) == ("ready", 1)


def test_status_explains_a_server_that_fails_repeatedly(
    runtime: Containers, plain_image: Image, tmp_path: Path
) -> None:
    server = fake_server(plain_image, "failing", model="failing")
    launch = Command(tmp_path, server)
    assert "They are starting" in launch.run("up", "--no-wait")
    assert eventually(lambda: found(runtime, server).restarts > 1)
    row = launch.status(server)
    assert row["state"] in ("restarting", "starting")  # depends on the moment
    assert f"; restarted {row['restarts']} times. Cause: {FAILING_LINE}" in row["reason"]


def test_status_reports_a_failing_health_check(chat: Server, tmp_path: Path) -> None:
    launch = Command(tmp_path, chat)
    launch.run("up")
    command(chat, "fail-health")
    printed = launch.run("status", "--runtime", "docker", status=1)
    assert f"{chat.name}: GET /health answers 503" in printed


def test_unreachable_engine_is_explained(tmp_path: Path, plain_image: Image) -> None:
    launch = Command(tmp_path, fake_server(plain_image, "x"), engine=f"unix://{tmp_path}/none.sock")
    printed = launch.run("up", status=1)
    assert f"none answers (DOCKER_HOST=unix://{tmp_path}/none.sock). Start it" in printed
    assert "--runtime process" in printed
    assert "Containers are left out" in launch.run("status"), "status does not look empty"
