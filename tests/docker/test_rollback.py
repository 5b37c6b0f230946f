"""`vllm-launch rollback` with a container: the Ollama service of docker-compose.yml, with an image of a fake Ollama."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

import ollama_compat
from vllm_launch.cli import main
from vllm_launch.runtimes.ports import free_ports

from .helpers import name_of

FAKE_OLLAMA = Path(__file__).parents[1] / "unit" / "launch" / "fake_ollama.py"
COMPOSE = Path(sys.executable).with_name("docker-compose")
PYTHON = Path(sys.executable).resolve()


@pytest.fixture(scope="module")
def image(engine: DockerClient) -> Iterator[str]:
    """An image with Python and a fake Ollama on port 11434. It is complete, because Compose mounts nothing here."""
    archive = io.BytesIO()
    stdlib = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in (PYTHON, FAKE_OLLAMA, *libraries()):
            tar.add(file.resolve(), arcname=str(file))
        tar.add(stdlib, arcname=str(stdlib), filter=slim)
    changes = [
        f'ENTRYPOINT ["{PYTHON}", "{FAKE_OLLAMA}"]',
        'CMD ["serve"]',
        "ENV OLLAMA_HOST=http://0.0.0.0:11434",
    ]
    tag = name_of("ollama")
    engine.api.import_image_from_data(archive.getvalue(), repository=tag, tag="1", changes=changes)
    yield f"{tag}:1"
    engine.images.remove(f"{tag}:1", force=True)


def libraries() -> list[Path]:
    """The shared libraries of this Python and its modules, and the loader."""
    modules = Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so")
    output = subprocess.run(["ldd", PYTHON, *modules], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in sorted(set(re.findall(r"(/\S+) \(0x", output)))]


def slim(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    unneeded = re.search(r"/(site-packages|dist-packages|test|idlelib|tkinter|config-[^/]+|__pycache__)$", member.name)
    return None if unneeded else member


@pytest.fixture
def url(engine: DockerClient, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL for Ollama. Everything that Compose creates is removed afterwards."""
    if not COMPOSE.exists():
        pytest.skip("the package of Docker Compose is only for Linux")
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    project = name_of("rollback")
    monkeypatch.setenv("PATH", str(COMPOSE.parent), prepend=":")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", project)
    monkeypatch.setenv("OLLAMA_IMAGE", image)
    monkeypatch.setenv("OLLAMA_HOST", address)
    yield address
    filters = {"label": f"com.docker.compose.project={project}"}
    for container in engine.containers.list(all=True, filters=filters):
        container.remove(force=True, v=True)
    for network in engine.networks.list(filters=filters):
        network.remove()
    for volume in engine.volumes.list(filters=filters):
        volume.remove()


def rolled_back(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON report of the command."""
    with pytest.raises(SystemExit, match="0"):
        main(["rollback", "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_rollback_starts_ollama_only_at_the_expected_address(
    url: str, engine: DockerClient, capsys: pytest.CaptureFixture[str]
) -> None:
    report = rolled_back(capsys)
    assert (report["url"], report["started"], report["missing"]) == (url, True, ["daynice/kure-v1"])
    assert report["variables"] == {"BACKEND_MODE": "ollama", "OLLAMA_HOST": url}
    with ollama_compat.Client(backend_mode="ollama") as client:
        assert client.chat("exaone3.5:7.8b").message.content == "Ollama was here."
    [container] = engine.containers.list(filters={"label": "com.docker.compose.service=ollama", "name": name_of("")})
    assert container.ports["11434/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": url.rpartition(":")[2]}]


def test_rollback_uses_an_ollama_that_already_answers(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for started in (True, False):
        assert rolled_back(capsys)["started"] is started


def test_rollback_explains_an_ollama_that_ends_at_once(
    url: str, image: str, engine: DockerClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = io.BytesIO(f'FROM {image}\nENTRYPOINT ["{PYTHON}", "-c", "raise SystemExit(\'no room\')"]'.encode())
    made, _ = engine.images.build(fileobj=broken, tag=f"{name_of('ollama')}:broken", rm=True)
    monkeypatch.setenv("OLLAMA_IMAGE", f"{name_of('ollama')}:broken")
    try:
        assert main(["rollback"]) == 1
    finally:
        engine.images.remove(made.id, force=True)
    assert "ends as soon as it is started:\n" in (errors := capsys.readouterr().err)
    assert "  no room" in errors


def test_rollback_explains_a_missing_image(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_IMAGE", "127.0.0.1:1/no/such:image")
    assert main(["rollback"]) == 1
    errors = capsys.readouterr().err
    assert "The container of Ollama could not be started" in errors
    assert "no/such:image" in errors
    assert "vllm-launch rollback --runtime process" in errors
