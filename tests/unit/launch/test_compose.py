"""docker-compose.yml, generated from the descriptions of servers and checked by Docker Compose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from vllm_launch import compose, container
from vllm_launch.compose.files import COMMAND
from vllm_launch.compose.variables import HF_TOKEN, Variable
from vllm_launch.presets import CPU, GPU, PRESETS
from vllm_launch.runtimes.base import LaunchError
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

ROOT = Path(__file__).parent.parent.parent.parent
COMPOSE = Path(sys.executable).with_name("docker-compose")
PROFILES = {
    "gpu": {"vllm-llm", "vllm-embed"},
    "cpu": {"vllm-llm-cpu", "vllm-embed-cpu"},
    "scale": {"vllm-router", "vllm-llm-1", "vllm-llm-2", "vllm-embed"},
    "gpu-legacy": {"ollama"},
    "limits": {"redis"},
    "monitoring": {"prometheus", "grafana"},
}
ROWS = [row for _, rows in compose.variable_rows() for row in rows]
GENERATES = Server(name="big", model="a/b", port=9001, gpus=(0, 1), tensor_parallel_size=2)

needs_compose = pytest.mark.skipif(not COMPOSE.exists(), reason="Docker Compose has a package for Linux alone")


def config(folder: Path, *profiles: str, **environment: str) -> dict[str, Any]:
    """The project as Compose resolves it. Warnings are failures."""
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [COMPOSE, "--project-directory", folder, "--env-file", "/dev/null", *chosen, "config", "--format", "json"]
    home = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(command, env={**home, **environment}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    project: dict[str, Any] = json.loads(done.stdout)
    return project


def written(folder: Path, *servers: Server) -> Path:
    for path, text in compose.files(servers).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


# --- the files of this repository


@pytest.mark.parametrize("path", compose.files())
def test_committed_file_equals_the_generated_one(path: str) -> None:
    assert (ROOT / path).read_text() == compose.files()[path], f"run `{COMMAND}`"


@needs_compose
@pytest.mark.parametrize("profile", PROFILES)
def test_compose_accepts_each_profile_and_starts_its_services(profile: str) -> None:
    assert set(config(ROOT, profile)["services"]) == PROFILES[profile]


@needs_compose
def test_compose_accepts_all_profiles_at_once() -> None:
    assert set(config(ROOT, *PROFILES)["services"]) == set().union(*PROFILES.values())


@needs_compose
@pytest.mark.parametrize("name", [*GPU, *CPU])
def test_service_matches_its_preset_without_settings(name: str) -> None:
    server = PRESETS[name]
    service = config(ROOT, "gpu" if server.needs_gpu else "cpu")["services"][name]
    assert service["image"] == server.image
    assert service["command"] == [part.replace("$", "$$") for part in container.command(server)]
    assert service["entrypoint"] == [part.replace("$", "$$") for part in container.entrypoint(server)]
    assert service["environment"] == {"HF_TOKEN": None, **server.env}  # None: present only if it is set
    assert {volume["source"]: volume["target"] for volume in service["volumes"]} == server.volumes
    (port,) = service["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == (server.host, str(server.port), container.PORT)
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert [device["device_ids"] for device in devices] == ([["0"]] if server.needs_gpu else [])


@needs_compose
def test_every_service_has_a_health_check_a_restart_policy_and_a_log_limit() -> None:
    for name, service in config(ROOT, *PROFILES)["services"].items():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"] == container.LOG_OPTIONS, name


@needs_compose
def test_health_check_requests_health_and_allows_a_long_start() -> None:
    check = config(ROOT, "gpu")["services"]["vllm-llm"]["healthcheck"]
    assert "/health" in check["test"][-1]
    assert check["start_period"] == "30m0s"


@needs_compose
def test_ports_are_bound_to_loopback_by_default() -> None:
    def addresses(**environment: str) -> dict[str, set[str]]:
        services = config(ROOT, *PROFILES, **environment)["services"]
        return {name: {port["host_ip"] for port in service.get("ports", [])} for name, service in services.items()}

    assert set().union(*addresses().values()) == {"127.0.0.1"}
    opened = addresses(BIND_ADDRESS="0.0.0.0")
    assert {name for name, ips in opened.items() if "0.0.0.0" in ips} == {*GPU, *CPU, "vllm-router", "ollama"}
    tools = addresses(TOOLS_BIND_ADDRESS="0.0.0.0")
    assert {name for name, ips in tools.items() if "0.0.0.0" in ips} == {"redis", "prometheus", "grafana"}


@needs_compose
@pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server is installed")
def test_redis_accepts_its_command_and_stores_nothing(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [*config(ROOT, "limits")["services"]["redis"]["command"], "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("Ready to accept connections" in line for line in server.stdout)
        with redis.Redis(port=port) as client:
            settings = client.config_get("save", "appendonly", "maxmemory-policy")
            client.shutdown()
    assert settings == {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-ttl"}
    assert list(tmp_path.iterdir()) == []


# --- settings


def test_every_variable_of_the_file_is_in_the_table_with_the_same_default() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+):-([^}]*)\}", compose.generate()))
    assert used == {(row.name, row.default) for row in ROWS if row != HF_TOKEN}
    assert re.findall(r"(?<!\$)\$(?!\$|\{\w+:-)", compose.generate()) == []


def test_env_example_has_every_variable_and_a_profile() -> None:
    lines = compose.env_example().splitlines()
    assert [line[1:] for line in lines if re.match(r"#[A-Z]", line)] == [f"{row.name}={row.default}" for row in ROWS]
    assert [line for line in lines if line and line[0] != "#"] == ["COMPOSE_PROFILES=gpu"]


@needs_compose
def test_env_example_changes_nothing_when_fully_uncommented(tmp_path: Path) -> None:
    taken_in = re.sub(r"(?m)^#(?=[A-Z])", "", compose.env_example()).replace("HF_TOKEN=\n", "\n")
    values = dict(line.split("=", 1) for line in taken_in.splitlines() if line and line[0] != "#")
    values.pop("COMPOSE_PROFILES")
    assert config(ROOT, *PROFILES, **values) == config(ROOT, *PROFILES)


@needs_compose
def test_every_variable_takes_effect() -> None:
    values = {row.name: another(row, place) for place, row in enumerate(ROWS)}
    project = json.dumps(config(ROOT, *PROFILES, **values))
    assert [name for name, value in values.items() if value not in project] == []


def another(row: Variable, place: int) -> str:
    """A unique value of the same kind."""
    if row.default == "1800s":
        return "7m0s"
    if row.default == "127.0.0.1":
        return f"10.0.0.{100 + place}"
    if row.default.replace(".", "").isdigit():
        return str(20000 + place)
    return f"/srv/{100 + place}" if row.default in ("huggingface", "ollama", "/dev/null") else f"other:{100 + place}"


# --- new servers


@needs_compose
def test_dollar_in_a_description_is_escaped(tmp_path: Path) -> None:
    server = Server(name="mine", model="a/b", port=9000, env={"A": "$HOME ${B}"}, extra_args=("--x", '{"c": "$d"}'))
    service = config(written(tmp_path, server), "cpu")["services"]["mine"]
    assert service["environment"]["A"] == "$$HOME $${B}"  # Compose's notation of a dollar
    assert service["command"][-1] == '{"c": "$$d"}'


def test_key_is_a_file_and_appears_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    server = Server(name="mine", model="a/b", port=9000, api_key_file=tmp_path / "key")
    texts = compose.files([server])
    assert f"file: {tmp_path / 'key'}" in texts["docker-compose.yml"]
    assert not any("s3cret" in text for text in texts.values())


@needs_compose
def test_key_is_mounted_at_the_path_that_the_server_reads(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    server = Server(name="mine", model="a/b", port=9000, api_key_file=tmp_path / "key")
    project = config(written(tmp_path, server), "cpu")
    (secret,) = project["services"]["mine"]["secrets"]
    assert f"/run/secrets/{secret['target']}" == container.KEY_FILE
    assert project["secrets"][secret["source"]]["file"] == str(tmp_path / "key")


@needs_compose
def test_servers_on_one_gpu_start_sequentially_smallest_first() -> None:
    services = config(ROOT, "gpu")["services"]
    assert services["vllm-llm"]["depends_on"]["vllm-embed"]["condition"] == "service_healthy"
    assert "depends_on" not in services["vllm-embed"]


@needs_compose
def test_servers_on_different_gpus_start_independently(tmp_path: Path) -> None:
    one, other = (Server(name=name, model="a/b", port=9000 + gpu, gpus=(gpu,)) for gpu, name in enumerate(("a", "b")))
    services = config(written(tmp_path, one, other), "gpu")["services"]
    assert not any("depends_on" in service for service in services.values())


@needs_compose
def test_replicas_have_separate_gpus_and_the_router_has_the_port(tmp_path: Path) -> None:
    services = config(written(tmp_path, GENERATES), "scale")["services"]
    assert set(services) == {"big-1", "big-2", "vllm-router"}
    assert [gpus_of(services[name]) for name in ("big-1", "big-2")] == [["0", "1"], ["2", "3"]]
    assert not any("ports" in services[name] for name in ("big-1", "big-2"))
    router = services["vllm-router"]
    assert router["ports"][0]["published"] == "9001"
    assert {"http://big-1:8000", "http://big-2:8000"} <= set(router["command"])
    assert set(router["depends_on"]) == {"big-1", "big-2"}


@needs_compose
@pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1")])
def test_host_is_the_address_of_the_server_or_its_router(tmp_path: Path, host: str, address: str) -> None:
    folder = written(tmp_path, GENERATES.model_copy(update={"host": host}))
    for profile, name in (("gpu", "big"), ("scale", "vllm-router")):
        assert config(folder, profile)["services"][name]["ports"][0]["host_ip"] == address
        ports = config(folder, profile, BIND_ADDRESS="10.0.0.5")["services"][name]["ports"]
        assert ports[0]["host_ip"] == "10.0.0.5"


@needs_compose
def test_all_gpus_become_a_count_and_prevent_replicas(tmp_path: Path) -> None:
    folder = written(tmp_path, GENERATES.model_copy(update={"gpus": "all"}))
    assert config(folder, "gpu")["services"]["big"]["deploy"]["resources"]["reservations"]["devices"][0]["count"] == -1
    assert "services" not in config(folder, "scale") or not config(folder, "scale")["services"]


def test_circuit_of_a_dead_replica_opens_before_the_retries_end() -> None:
    flags = re.findall(r"--(retry-max-retries|cb-failure-threshold), '(\d+)'", compose.generate())
    numbers: Mapping[str, int] = {name: int(value) for name, value in flags}
    assert numbers["cb-failure-threshold"] < numbers["retry-max-retries"]


@pytest.mark.parametrize("name", ["redis", "vllm-router"])
def test_generate_raises_for_the_name_of_an_auxiliary_service(name: str) -> None:
    with pytest.raises(LaunchError, match=f"Rename the server '{name}'"):
        compose.files([Server(name=name, model="a/b", port=9000)])


def test_generate_raises_for_the_name_of_a_replica() -> None:
    with pytest.raises(LaunchError, match=r"'big-1'\. Rename one of them"):
        compose.files([GENERATES, Server(name="big-1", model="a/b", port=9002)])


def test_generate_raises_for_a_duplicate_port_in_a_profile() -> None:
    on_cpu = Server(name="small", model="a/b", port=GENERATES.port)
    compose.files([GENERATES, on_cpu])
    with pytest.raises(LaunchError, match="small and other have the same port, 9001, and the profile cpu starts both"):
        compose.files([GENERATES, on_cpu, on_cpu.model_copy(update={"name": "other"})])


def test_generate_raises_for_a_variable_with_two_defaults() -> None:
    own = Server(name="vllm-cpu", model="a/b", port=9000, image="mine:1")
    with pytest.raises(LaunchError, match="VLLM_CPU_IMAGE"):
        compose.files([own, PRESETS["vllm-llm-cpu"]])


def gpus_of(service: Mapping[str, Any]) -> list[str]:
    ids: list[str] = service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    return ids
