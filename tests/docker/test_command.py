"""`vllm-launch` on a real engine, with a stand-in for vLLM: what a user sees, what stays and what goes."""

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
from vllm_launch.config import load
from vllm_launch.runtimes.containers import Containers
from vllm_launch.servers import Server

from .command import Command
from .helpers import answers, eventually, found, is_loading, stand_in, started, told
from .stand_in import DYING_WORDS


@pytest.fixture
def chat(plain_image: Image, engine: DockerClient) -> Iterator[Server]:
    """A description that mounts a volume of models, which is there afterwards still."""
    server = stand_in(plain_image, "chat")
    volume = f"{server.name}-models"
    yield server.model_copy(update={"volumes": {**server.volumes, volume: "/models"}})
    for name in names(engine, server):
        engine.containers.get(name).remove(force=True)
    engine.volumes.get(volume).remove()


def names(engine: DockerClient, *servers: Server) -> list[str]:
    """Of these, the ones that have a container."""
    there = [str(container.name) for container in engine.containers.list(all=True, ignore_removed=True)]
    return [server.name for server in servers if server.name in there]


def made(engine: DockerClient, server: Server) -> tuple[str, str, dict[str, Any]]:
    """What changes where a container is touched."""
    attrs = engine.containers.get(server.name).attrs
    return attrs["Id"], attrs["State"]["StartedAt"], attrs["HostConfig"]


def guard_of(launcher: subprocess.Popen[str]) -> int:
    """The process that looks after what a launcher has not kept."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    [guard] = [int(each) for each in children if b"container_guard" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return guard


def test_from_up_to_down(chat: Server, engine: DockerClient, tmp_path: Path) -> None:
    command = Command(tmp_path, chat)
    printed = command.run("up", chat.name)
    assert f"✓ Starting {chat.name}" in printed
    assert f"ready on {chat.base_url}" in printed
    first = made(engine, chat)
    assert first[2]["RestartPolicy"]["Name"] == "unless-stopped"
    assert command.status(chat)["state"] == "ready"
    assert command.run("logs", chat.name) == "a stand-in for lives\n"

    assert f"✓ {chat.name} runs as described" in command.run("up", chat.name)
    assert made(engine, chat) == first, "up again touches nothing"

    command.describe(chat.model_copy(update={"env": {"A": "1"}}))
    assert f"{chat.name}: env differs in A" in command.run("up", status=1)
    assert made(engine, chat) == first, "it is told, and left alone"
    command.run("up", "--replace")
    assert made(engine, chat)[0] != first[0]

    assert command.run("down", chat.name) == f"Stopping {chat.name}\n"
    assert names(engine, chat) == []
    assert engine.volumes.get(f"{chat.name}-models"), "downloaded models stay"


def test_logs_are_followed_until_ctrl_c(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    server = stand_in(plain_image, "followed")
    started(runtime, server)
    with Command(tmp_path).start("logs", "--follow", server.name) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "a stand-in for lives\n"
        follower.send_signal(signal.SIGINT)
        assert (follower.wait(20), follower.stdout.read()) == (130, "")
    assert found(runtime, server).state == "running"


def test_ctrl_c_stops_what_this_command_has_started_and_leaves_what_was_there(
    chat: Server, loads: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    command = Command(tmp_path, chat, loads)
    command.run("up", chat.name)
    before = made(engine, chat)
    with command.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loads))
        launcher.send_signal(signal.SIGINT)
        printed, _ = launcher.communicate(timeout=20)
    assert launcher.returncode == 130
    assert printed.endswith("vllm-launch: stopped; what was still starting has been stopped too.\n")
    assert names(engine, chat, loads) == [chat.name]
    assert made(engine, chat) == before


def test_what_a_killed_launcher_leaves_unready_goes_and_what_was_there_stays(
    chat: Server, loads: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    command = Command(tmp_path, chat, loads)
    command.run("up", chat.name)
    with command.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loads))
        launcher.kill()
    assert eventually(lambda: names(engine, chat, loads) == [chat.name])
    assert command.status(chat)["state"] == "ready"


def test_where_the_guard_is_killed_as_well_the_server_is_still_known_and_can_be_taken_down(
    loads: Server, runtime: Containers, engine: DockerClient, tmp_path: Path
) -> None:
    command = Command(tmp_path, loads)
    with command.start("up") as launcher:
        assert eventually(lambda: is_loading(engine, loads))
        os.kill(guard_of(launcher), signal.SIGKILL)
        launcher.kill()
    assert command.status(loads)["state"] == "starting"
    assert command.run("down", loads.name) == f"Stopping {loads.name}\n"
    assert names(engine, loads) == []


def test_what_a_launcher_has_lost_is_the_next_ones(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    command = Command(tmp_path, stand_in(plain_image, "lost"))
    [server] = load(tmp_path / "vllm-launch.toml").servers.values()
    started(runtime, server)  # and not kept: its launcher ends here, so to speak
    assert not found(runtime, server).kept
    assert f"✓ {server.name} runs as described" in command.run("up")
    assert found(runtime, server).kept


def test_two_launchers_at_once_start_one_server_and_both_see_it_ready(
    chat: Server, engine: DockerClient, tmp_path: Path
) -> None:
    command = Command(tmp_path, chat)
    with command.start("up") as one, command.start("up") as other:
        told = [launcher.communicate(timeout=60)[0] for launcher in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    assert engine.containers.get(chat.name).attrs["RestartCount"] == 0
    assert command.status(chat)["state"] == "ready"


def test_one_that_dies_later_is_started_again_and_status_counts_it(
    chat: Server, engine: DockerClient, tmp_path: Path
) -> None:
    command = Command(tmp_path, chat)
    command.run("up")
    told(chat, "die")
    assert eventually(lambda: engine.containers.get(chat.name).attrs["RestartCount"]) == 1
    assert eventually(lambda: answers(chat))
    row = command.status(chat)
    assert (row["state"], row["restarts"]) == ("ready", 1)


def test_one_that_keeps_dying_is_explained(runtime: Containers, plain_image: Image, tmp_path: Path) -> None:
    server = stand_in(plain_image, "dies", model="dies")
    command = Command(tmp_path, server)
    assert "They are starting" in command.run("up", "--no-wait")
    assert eventually(lambda: found(runtime, server).restarts > 1)
    row = command.status(server)
    assert row["state"] in ("restarting", "starting")  # as it happens to be at that moment
    assert f"; restarted {row['restarts']} times. Cause: {DYING_WORDS}" in row["reason"]


def test_one_that_says_it_is_ill_is_unhealthy(chat: Server, tmp_path: Path) -> None:
    command = Command(tmp_path, chat)
    command.run("up")
    told(chat, "sicken")
    printed = command.run("status", "--runtime", "docker", status=1)
    assert f"{chat.name}: GET /health answers 503" in printed


def test_no_engine_is_told_with_what_can_be_done(tmp_path: Path, plain_image: Image) -> None:
    command = Command(tmp_path, stand_in(plain_image, "x"), engine=f"unix://{tmp_path}/none.sock")
    printed = command.run("up", status=1)
    assert f"none answers (DOCKER_HOST=unix://{tmp_path}/none.sock). Start it" in printed
    assert "--runtime process" in printed
    assert "Containers are left out" in command.run("status"), "nobody takes it for an empty machine"
