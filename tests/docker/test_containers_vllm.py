"""Two real vLLM servers in real containers: started, called by the client, inspected and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from docker import DockerClient

import ollama_compat as ollama
from testbed import servers
from testbed.image import Image
from testbed.paths import HERE
from tests.polling import eventually
from vllm_launch import up
from vllm_launch.runtimes.base import Instance, LaunchError
from vllm_launch.runtimes.containers import Containers
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import ENTRYPOINT, Server

from .helpers import answers, ignore, name_of


def contained(server: Server, image: Image) -> Server:
    """A server of the test bed as a container that requires the test bed's API key."""
    return server.model_copy(
        update={
            "name": name_of(server.name),
            "image": image.tag,
            "volumes": dict(image.volumes),
            "shm_size": "256m",
            "entrypoint": ENTRYPOINT,
            "api_key_file": HERE / "api-key.txt",
        }
    )


@dataclass(frozen=True, slots=True)
class Started:
    """The result of one `up`."""

    pair: list[Instance]
    error: str
    """The error about the third server."""


@pytest.fixture(scope="module")
def started(engine: DockerClient, vllm_image: Image) -> Iterator[Started]:
    """A chat and an embedding server, both ready, and a third server that failed because of an unknown flag."""
    runtime = Containers(engine)
    chat_port, embed_port, port = free_ports(3)
    pair = [contained(server, vllm_image) for server in (servers.chat(chat_port), servers.embed(embed_port))]
    wrong = pair[0].model_copy(
        update={"name": name_of("wrong"), "port": port, "extra_args": ("--max-model-length=64",)}
    )
    names = [server.name for server in pair]
    try:
        with pytest.raises(LaunchError) as failed:
            up.up(runtime, [*pair, wrong], lambda _: None, timeout_s=1200)
        assert set(names) <= {instance.name for instance in runtime.instances()}, str(failed.value)
        yield Started([each for each in runtime.instances() if each.name in names], str(failed.value))
    finally:
        up.down(runtime, [*names, wrong.name], ignore)


@pytest.fixture
def pair(started: Started) -> list[Instance]:
    """The two ready servers."""
    return started.pair


@pytest.fixture
def client(pair: list[Instance]) -> Iterator[ollama.Client]:
    urls = ",".join(instance.server.base_url for instance in pair)
    models = {"exaone3.5:7.8b": "smol", "daynice/kure-v1": "minilm"}
    with ollama.Client(
        backend_mode="vllm", vllm_urls=urls, vllm_api_key=servers.API_KEY, vllm_model_map=models
    ) as client:
        yield client


def test_client_calls_both_servers(client: ollama.Client) -> None:
    answer = client.chat(
        "exaone3.5:7.8b", [{"role": "user", "content": "Say hello."}], options={"temperature": 0, "num_predict": 16}
    )
    vectors = client.embed("daynice/kure-v1", ["안녕하세요", "hello"]).embeddings
    assert answer.done
    assert answer.message.content
    assert [len(vector) for vector in vectors] == [384, 384]


def test_unknown_flag_is_explained_and_the_other_servers_get_ready(started: Started) -> None:
    assert started.error.startswith(f"The vLLM server '{name_of('wrong')}' ended while it was starting, with status 2.")
    assert "Cause: this vLLM does not know --max-model-length=64. Nearest: --max-model-len." in started.error
    assert started.error.count("The vLLM server") == 1, "the error names no other server"


def test_ready_servers_are_kept_and_found(pair: list[Instance], engine: DockerClient) -> None:
    assert [instance.state for instance in pair] == ["running", "running"]
    for instance in pair:
        assert engine.containers.get(instance.id).attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_second_up_changes_nothing(pair: list[Instance], engine: DockerClient) -> None:
    events: list[str] = []
    again = up.up(Containers(engine), [instance.server for instance in pair], lambda event: events.append(event.kind))
    assert events.count("stays") == 2
    assert "prepares" not in events
    assert [instance.id for instance in again] == [instance.id for instance in pair]


def test_docker_reports_the_servers_as_healthy(pair: list[Instance], engine: DockerClient) -> None:
    for instance in pair:
        assert eventually(lambda id=instance.id: engine.containers.get(id).health == "healthy")  # type: ignore[misc]


def test_api_key_is_required_and_not_visible(pair: list[Instance], engine: DockerClient) -> None:
    for instance in pair:
        refused = answers(instance.server, "/v1/models")
        assert refused is not None
        assert refused.status_code == 401
        container = engine.containers.get(instance.id)
        assert servers.API_KEY not in str(container.attrs), "docker inspect"
        assert servers.API_KEY not in str(container.top(ps_args="-ef")), "docker top"
        assert servers.API_KEY not in Containers(engine).log(instance), "docker logs"


def test_down_leaves_no_container(pair: list[Instance], engine: DockerClient) -> None:
    runtime = Containers(engine)
    names = [instance.name for instance in pair]
    assert up.down(runtime, names, ignore) == sorted(names)
    assert [container.name for container in engine.containers.list(all=True) if container.name in names] == []
    assert [answers(instance.server) for instance in pair] == [None, None]
