"""The committed docker-compose.yml on a real Docker engine: `up`, calls, `down`.

An override file replaces only what a registry would provide: the image and the models.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import ollama
import pytest
import yaml
from docker import DockerClient
from docker.models.containers import Container
from docker.types import Mount

from ollama_compat import Client
from testbed import servers
from testbed.image import Image
from vllm_launch import container
from vllm_launch.presets import EXAONE, KURE
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

from .helpers import name_of

ROOT = Path(__file__).parent.parent.parent
COMPOSE = Path(sys.executable).with_name("docker-compose")
KEY = "a-secret-key"
PROJECT = "com.docker.compose.project"


@dataclass(frozen=True, slots=True)
class Stack:
    """The Compose project of one test run."""

    name: str
    override: Path
    settings: dict[str, str]
    llm_url: str
    embed_url: str

    def compose(self, *arguments: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_HOST")}
        command = [COMPOSE, "--project-name", self.name, "--file", ROOT / "docker-compose.yml", "--file", self.override]
        done = subprocess.run(
            [*command, "--env-file", "/dev/null", "--profile", "cpu", *arguments],
            env={**kept, **self.settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def containers(self, engine: DockerClient) -> dict[str, Container]:
        """The containers of the project, by service."""
        found = engine.containers.list(all=True, filters={"label": f"{PROJECT}={self.name}"})
        return {one.labels["com.docker.compose.service"]: one for one in found}


@pytest.fixture(scope="module")
def stack(engine: DockerClient, vllm_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project with both servers healthy."""
    if not COMPOSE.exists():
        pytest.skip("the package of Docker Compose is only for Linux")
    folder = tmp_path_factory.mktemp("compose")
    (folder / "key").write_text(KEY + "\n")
    (folder / "override.yml").write_text(override(vllm_image))
    llm_port, embed_port = free_ports(2)
    settings = {
        "VLLM_CPU_IMAGE": vllm_image.tag,
        "VLLM_LLM_CPU_PORT": str(llm_port),
        "VLLM_EMBED_CPU_PORT": str(embed_port),
        "VLLM_API_KEY_FILE": str(folder / "key"),
        "HF_CACHE": str(folder / "models"),
    }
    urls = [f"http://127.0.0.1:{port}" for port in (llm_port, embed_port)]
    made = Stack(name_of("compose"), folder / "override.yml", settings, *urls)
    try:
        made.compose("up", "--detach", "--wait", "--wait-timeout", "1200")
        yield made
    except AssertionError as error:
        logs = "\n".join(one.logs(tail=30).decode() for one in made.containers(engine).values())
        pytest.fail(f"{error}\n{logs}")
    finally:
        made.compose("down", "--timeout", "10")
        assert made.containers(engine) == {}


def override(image: Image) -> str:
    """Replaces the models with small ones of the same served names."""
    small = {
        "vllm-llm-cpu": servers.chat(1).model_copy(update={"served_model_name": (EXAONE,)}),
        "vllm-embed-cpu": servers.embed(1).model_copy(update={"served_model_name": (KURE,)}),
    }
    return yaml.safe_dump({"services": {name: replaced(server, image) for name, server in small.items()}})


def replaced(server: Server, image: Image) -> dict[str, object]:
    environment = {name: value for name, value in server.env.items() if name != "VLLM_CACHE_ROOT"}
    return {
        "command": container.command(server),
        "environment": environment,
        "volumes": [f"{outside}:{inside}" for outside, inside in image.volumes.items()],
        "pull_policy": "never",
        "healthcheck": {"interval": "1s"},  # the tests wait for the first check
    }


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    urls = [stack.llm_url, stack.embed_url]
    with Client(backend_mode="vllm", vllm_urls=urls, vllm_api_key=KEY) as client:
        yield client


def test_client_calls_the_servers_by_ollama_names(client: Client) -> None:
    answer = client.chat("exaone3.5:7.8b", [{"role": "user", "content": "Say hello."}], options={"num_predict": 8})
    assert answer.message.content
    (vector,) = client.embed("daynice/kure-v1", "안녕하세요").embeddings
    assert len(vector) == 384


def test_calls_without_the_key_return_401(stack: Stack) -> None:
    with (
        Client(backend_mode="vllm", vllm_urls=[stack.llm_url]) as client,
        pytest.raises(ollama.ResponseError, match="401"),
    ):
        client.chat("exaone3.5:7.8b", [{"role": "user", "content": "Say hello."}])
    assert httpx.get(f"{stack.llm_url}/v1/models", timeout=60).status_code == 401


def test_key_is_not_in_inspect_output_or_command_lines(stack: Stack, engine: DockerClient) -> None:
    for one in stack.containers(engine).values():
        assert KEY not in str(one.attrs)
        processes = one.top()["Processes"] or []
        assert any("api_server" in " ".join(process) for process in processes)
        assert KEY not in str(processes)


def test_servers_are_healthy_and_listen_only_on_this_machine(stack: Stack, engine: DockerClient) -> None:
    found = stack.containers(engine)
    assert set(found) == {"vllm-llm-cpu", "vllm-embed-cpu"}
    for one in found.values():
        assert one.attrs["State"]["Health"]["Status"] == "healthy"
        assert [port["HostIp"] for port in one.ports["8000/tcp"]] == ["127.0.0.1"]


def test_second_up_changes_nothing(stack: Stack, engine: DockerClient) -> None:
    before = {name: one.id for name, one in stack.containers(engine).items()}
    stack.compose("up", "--detach", "--wait")
    assert {name: one.id for name, one in stack.containers(engine).items()} == before


# --- The entrypoint of a container, with a program that prints its API key


PRINTS_KEY = Server(
    name="prints-key", model="m", port=1, entrypoint=("python3", "-c", "import os; print(os.getenv('VLLM_API_KEY'))")
)


def run(engine: DockerClient, image: Image, key_file: Path | None) -> tuple[int, str]:
    """Run the program with a key file. Returns its exit status and output."""
    mounts = [Mount(target=path, source=path, type="bind", read_only=True) for path in image.volumes]
    if key_file:
        mounts.append(Mount(target=container.KEY_FILE, source=str(key_file), type="bind", read_only=True))
    one = engine.containers.create(
        image.tag, [], entrypoint=container.entrypoint(PRINTS_KEY), mounts=mounts, name=name_of("prints-key")
    )
    try:
        one.start()
        return one.wait()["StatusCode"], one.logs().decode().strip()
    finally:
        one.remove(force=True)


def test_server_starts_with_the_key_of_its_file(engine: DockerClient, plain_image: Image, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  s3cret\n")
    assert run(engine, plain_image, tmp_path / "key") == (0, "s3cret")


@pytest.mark.parametrize("key_file", [None, Path("/dev/null")], ids=["no file", "/dev/null"])
def test_server_without_a_key_file_starts_without_a_key(
    engine: DockerClient, plain_image: Image, key_file: Path | None
) -> None:
    assert run(engine, plain_image, key_file) == (0, "None")


def test_server_with_a_blank_key_file_does_not_start(engine: DockerClient, plain_image: Image, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" \n")
    assert run(engine, plain_image, tmp_path / "key") == (78, "The file of the API key is empty.")
