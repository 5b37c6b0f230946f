"""Runs the pod of a generated Kubernetes manifest as a Docker container. No cluster is needed.

The tests check that the real vLLM starts with the settings of the pod, without privileges and with the key of a Secret,
and that it completes its answers when the pod is deleted. They do not check scheduling, probes and scaling.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from docker import DockerClient
from docker.models.containers import Container
from docker.types import Mount

from testbed import servers
from testbed.image import Image
from tests.polling import eventually
from vllm_launch import kubernetes
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import ENTRYPOINT, Server

from .helpers import name_of

SECRETS = {"vllm-api-key": {"api-key": servers.API_KEY}}


def described(image: Image) -> Server:
    """The test bed's chat server, with vLLM's engine in a separate process, as in production."""
    chat = servers.chat(9000)
    return chat.model_copy(
        update={
            "image": image.tag,
            "volumes": {**image.volumes, "huggingface": "/root/.cache/huggingface"},
            "shm_size": "256m",
            "entrypoint": ENTRYPOINT,
            "env": {**chat.env, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            "api_key_file": Path("vllm-api-key"),
        }
    )


def made(engine: DockerClient, pod: dict[str, Any], port: int, folder: Path) -> Container:
    """The container that a kubelet would create for the pod. `port`: the host port of its port."""
    (wanted,) = pod["containers"]
    security = wanted["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    container: Container = engine.containers.create(
        wanted["image"],
        name=name_of("pod"),
        entrypoint=[expanded(part) for part in wanted["command"]],
        command=[expanded(part) for part in wanted["args"]],
        environment={each["name"]: expanded(each["value"]) for each in wanted["env"] if "value" in each},
        mounts=[mount(each, volumes[each["name"]], folder) for each in wanted["volumeMounts"]],
        ports={wanted["ports"][0]["containerPort"]: ("127.0.0.1", port)},
        cap_drop=security["capabilities"]["drop"],
        security_opt=["no-new-privileges"],
    )
    return container


def expanded(text: str) -> str:
    """The text as Kubernetes expands it, without variables."""
    return text.replace("$$", "$")


def mount(wanted: dict[str, Any], volume: dict[str, Any], folder: Path) -> Mount:
    target, read_only = wanted["mountPath"], wanted.get("readOnly", False)
    match volume:
        case {"hostPath": {"path": path}}:
            return Mount(target, path, type="bind", read_only=read_only)
        case {"emptyDir": _}:
            return Mount(target, None, type="tmpfs")
        case {"secret": secret}:
            for item in secret["items"]:
                (folder / item["path"]).write_text(SECRETS[secret["secretName"]][item["key"]])
                (folder / item["path"]).chmod(secret["defaultMode"])
            return Mount(target, str(folder), type="bind", read_only=read_only)
        case _:
            raise AssertionError(volume)


@pytest.fixture(scope="module")
def pod(vllm_image: Image) -> dict[str, Any]:
    manifest = next(yaml.safe_load_all(kubernetes.generate([described(vllm_image)])))
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def url(
    engine: DockerClient, pod: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Container, str]]:
    """The container and its URL, after its startup probe succeeds."""
    (port,) = free_ports(1)
    container = made(engine, pod, port, tmp_path_factory.mktemp("secret"))
    try:
        container.start()
        probe = pod["containers"][0]["startupProbe"]["httpGet"]
        assert probe["port"] == pod["containers"][0]["ports"][0]["name"]
        url = f"http://127.0.0.1:{port}"
        assert eventually(lambda: ready(url + probe["path"]), within=1200), container.logs().decode()[-3000:]
        yield container, url
    finally:
        container.remove(force=True, v=True)


def ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=30).is_success
    except httpx.HTTPError:
        return False


def test_pod_requires_the_key_of_the_secret_except_for_metrics(url: tuple[Container, str]) -> None:
    _, base = url
    key = {"Authorization": f"Bearer {servers.API_KEY}"}
    assert httpx.get(f"{base}/v1/models", trust_env=False, timeout=60).status_code == 401
    assert httpx.get(f"{base}/v1/models", headers=key, trust_env=False, timeout=60).status_code == 200
    assert "vllm:num_requests_waiting" in httpx.get(f"{base}/metrics", trust_env=False, timeout=60).text


def test_deleted_pod_completes_its_answer(url: tuple[Container, str], pod: dict[str, Any]) -> None:
    container, base = url
    status, _ = container.exec_run([pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0], "0"])
    assert status == 0  # the command of the hook exists
    request = {
        "model": "smol",
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 200,
        "ignore_eos": True,
        "stream": True,
    }
    key = {"Authorization": f"Bearer {servers.API_KEY}"}
    grace = pod["terminationGracePeriodSeconds"]
    chat = f"{base}/v1/chat/completions"
    with httpx.stream("POST", chat, json=request, headers=key, trust_env=False, timeout=1200) as answer:
        events = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
        next(events)
        stopping = threading.Thread(target=container.stop, kwargs={"timeout": grace})
        stopping.start()
        rest = [*events]
    stopping.join()
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "length"
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
