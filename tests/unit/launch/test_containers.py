"""The runtime of containers without an engine: parameters, error messages, and rare behavior of engines."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from vllm_launch.presets import PRESETS
from vllm_launch.runtimes import available_runtimes, container_guard, container_spec, engine
from vllm_launch.runtimes.base import Instance, LaunchError
from vllm_launch.runtimes.containers import Containers, _lines, ended, unhealthy
from vllm_launch.runtimes.groups import identity
from vllm_launch.runtimes.records import Record, Records, boot_id
from vllm_launch.servers import Server


def server(**described: Any) -> Server:
    return Server.model_validate({"name": "chat", "model": "m", "port": 8001, **described})


def mounts(described: Server) -> list[tuple[str, str, str, bool]]:
    config = container_spec.host_config(described)
    return [(mount["Type"], mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in config["Mounts"]]


class TestSpec:
    def test_production_pair_has_its_gpu_memory_and_models(self) -> None:
        config = container_spec.host_config(PRESETS["vllm-llm"])
        [request] = config["DeviceRequests"]
        assert (request["DeviceIDs"], request["Capabilities"]) == (["0"], [["gpu"]])
        assert config["ShmSize"] == 8 * 2**30
        assert ("volume", "huggingface", "/root/.cache/huggingface", False) in mounts(PRESETS["vllm-llm"])
        assert {limit["Name"]: limit["Hard"] for limit in config["Ulimits"]} == {"memlock": -1, "stack": 67108864}

    def test_all_gpus_are_requested_by_count(self) -> None:
        [request] = container_spec.host_config(server(gpus="all"))["DeviceRequests"]
        assert (request["Count"], request["DeviceIDs"]) == (-1, [])

    def test_server_without_gpu_requests_none_and_keeps_the_limits(self) -> None:
        config = container_spec.host_config(PRESETS["vllm-llm-cpu"])
        assert not config.get("DeviceRequests")
        assert not config.get("Ulimits")

    def test_port_is_bound_to_the_described_address(self) -> None:
        bound = [container_spec.host_config(server(host=host))["PortBindings"] for host in ("0.0.0.0", "localhost")]
        assert bound == [
            {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8001"}]},
            {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}]},
        ]

    def test_host_name_is_rejected_as_bind_address(self) -> None:
        with pytest.raises(LaunchError, match=r"host of the vLLM server 'chat', 'gpu-1', is a name.*127\.0\.0\.1"):
            container_spec.host_config(server(host="gpu-1"))

    def test_health_check_and_arguments_equal_those_of_compose(self) -> None:
        options = container_spec.options(server(), "a-launcher", has_token=False)
        assert options["healthcheck"]["Test"][0] == "CMD"
        assert options["healthcheck"]["Interval"] == 10 * 10**9
        assert options["command"][:4] == ["--host", "0.0.0.0", "--port", "8000"]

    def test_volumes_support_home_folders_names_and_read_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        described = server(volumes={"~/models": "/models:ro", "cache": "/cache", "/data": "/data:rw"})
        assert mounts(described) == [
            ("bind", "/home/me/models", "/models", True),
            ("volume", "cache", "/cache", False),
            ("bind", "/data", "/data", False),
        ]
        assert container_spec.folders(described) == [Path("/home/me/models"), Path("/data")]

    @pytest.mark.parametrize(
        "volume", [("models/here", "/models"), ("cache", "models"), ("cache", "/cache:r"), ("", "/a")]
    )
    def test_invalid_volume_is_rejected(self, volume: tuple[str, str]) -> None:
        with pytest.raises(LaunchError, match="The volume"):
            container_spec.host_config(server(volumes=dict([volume])))

    def test_key_is_a_file_and_its_content_appears_nowhere(self, tmp_path: Path) -> None:
        key_file = tmp_path / "key"
        key_file.write_text("sk-secret")
        options = container_spec.options(server(api_key_file=key_file), "a-launcher", has_token=False)
        assert ("bind", str(key_file), "/run/secrets/vllm-api-key", True) in mounts(server(api_key_file=key_file))
        assert "sk-secret" not in str(options)

    def test_token_is_written_to_the_path_in_hf_token_path(self) -> None:
        options = container_spec.options(server(), "a-launcher", has_token=True)
        with tarfile.open(fileobj=io.BytesIO(container_spec.token_archive("hf_x"))) as archive:
            [member] = archive.getmembers()
            content = archive.extractfile(member)
            assert content is not None
            assert content.read() == b"hf_x"
        assert "/" + member.name == options["environment"]["HF_TOKEN_PATH"]

    def test_description_survives_the_labels(self) -> None:
        for described in PRESETS.values():
            assert container_spec.described(described.name, container_spec.labels(described, "x")) == described

    def test_unknown_fields_of_a_newer_launcher_are_ignored(self) -> None:
        label = server().model_dump_json().replace("{", '{"invented_later": 1, ', 1)
        assert container_spec.described("chat", {container_spec.SERVER_LABEL: label}) == server()

    @pytest.mark.parametrize("label", ["", "[]", "{}", '{"name": "chat"}'])
    def test_invalid_description_error_names_the_container(self, label: str) -> None:
        with pytest.raises(LaunchError, match="docker rm -f chat"):
            container_spec.described("chat", {container_spec.SERVER_LABEL: label})


class TestWords:
    @pytest.mark.parametrize(
        ("says", "means"),
        [
            ('could not select device driver "" with capabilities: [[gpu]]', "NVIDIA Container Toolkit"),
            ("failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=0", "NVIDIA Container Toolkit"),
            ("nvidia-container-cli: device error: 7: unknown device: unknown", "its GPU does not exist"),
            ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "NVIDIA driver"),
            ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "the disk is full"),
            ("pull access denied for x, repository does not exist or may require 'docker login'", "no such image"),
            ("manifest for a/b:c not found: manifest unknown: manifest unknown", "no such image"),
            ("Get https://r/v2/: dial tcp: lookup r: no such host", "the registry can't be reached"),
            (
                "Get https://r/v2/: net/http: request canceled (Client.Timeout exceeded)",
                "the registry can't be reached",
            ),
            ("toomanyrequests: You have reached your pull rate limit.", "rate limit is exceeded"),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", "another kind of processor"),
            (
                'exec: "/bin/sh": stat /bin/sh: no such file or directory: unknown',
                "does not contain the start program /bin/sh",
            ),
            ('invalid mount config for type "bind": bind source path does not exist: /x y', "/x"),
            ("listen tcp4 9.9.9.9:80: bind: cannot assign requested address", "no address of the engine's machine"),
            ("error setting rlimit type 8: operation not permitted", "rootless"),
        ],
    )
    def test_engine_message_is_explained_and_quoted(self, says: str, means: str) -> None:
        message = engine.refused("It can't be done", says)
        assert message.startswith("It can't be done: ")
        assert means in message
        assert message.endswith(f"Docker's message: {says}")

    def test_unknown_engine_message_is_quoted(self) -> None:
        assert (
            engine.refused("It can't be done", "the moon is full")
            == "It can't be done. Docker's message: the moon is full"
        )

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (
                DockerException("… ('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))"),
                "Start it",
            ),
            (
                DockerException("… ('Connection aborted.', PermissionError(13, 'Permission denied'))"),
                "usermod -aG docker",
            ),
            (requests.exceptions.ConnectionError("Connection refused"), "none answers"),
            (DockerException("Install paramiko package to enable ssh:// support"), "pip install paramiko"),
            (requests.exceptions.ReadTimeout("Read timed out."), "does not answer in time"),
        ],
    )
    def test_unreachable_engine_is_a_launch_error(self, error: Exception, words: str) -> None:
        with pytest.raises(LaunchError) as raised, engine.calls("It can't be done"):
            raise error
        assert str(raised.value).startswith("It can't be done: ")
        assert words in str(raised.value)

    def test_launch_error_passes_unchanged(self) -> None:
        with pytest.raises(LaunchError, match=r"^clear$"), engine.calls("It can't be done"):
            raise LaunchError("clear")

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ({"Status": "exited", "ExitCode": 1}, "with status 1"),
            ({"Status": "exited", "ExitCode": 0}, "with status 0"),
            ({"Status": "exited", "ExitCode": 255}, "with status 255"),
            ({"Status": "exited", "ExitCode": 139}, "by SIGSEGV"),
            ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "by SIGKILL: it was out of memory"),
            ({"Status": "created", "ExitCode": 0, "Error": "no GPU"}, "before it ran (no GPU)"),
            ({"Status": "created", "ExitCode": 0, "Error": ""}, "before it ran"),
        ],
    )
    def test_ended_describes_the_exit_of_a_container(self, state: dict[str, Any], words: str) -> None:
        assert ended(state) == words

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ({"Status": "running"}, ""),
            ({"Status": "running", "Health": {"Status": "healthy", "FailingStreak": 1}}, ""),
            (
                {"Status": "running", "Health": {"Status": "unhealthy", "FailingStreak": 3, "Log": []}},
                "3 health checks in a row have failed",
            ),
            (
                {
                    "Status": "running",
                    "Health": {
                        "Status": "unhealthy",
                        "FailingStreak": 4,
                        "Log": [{"Output": "Traceback\nOSError: no\n"}],
                    },
                },
                "4 health checks in a row have failed: OSError: no",
            ),
            ({"Status": "exited", "Health": {"Status": "unhealthy", "FailingStreak": 3}}, ""),
            ({"Status": "paused"}, "its container is paused (docker unpause)"),
        ],
    )
    def test_unhealthy_describes_the_failed_health_check(self, state: dict[str, Any], words: str) -> None:
        assert unhealthy(state) == words

    def test_lines_are_joined_across_chunks(self) -> None:
        written = "서버를 시작합니다\r\nloading: 0%\rloading: 100%\nthe end".encode()
        pieces = [written[at : at + 1] for at in range(len(written))]
        assert [line for line in _lines(iter(pieces)) if line] == [
            "서버를 시작합니다",
            "loading: 0%",
            "loading: 100%",
            "the end",
        ]


class TestFetching:
    def test_progress_counts_layers_and_bytes(self) -> None:
        layers = engine.Layers()
        events: list[dict[str, Any]] = [
            {"status": "Pulling from vllm/vllm-openai", "id": "v0.32.0"},
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "a"},
            {"status": "Already exists", "progressDetail": {}, "id": "b"},
            {"status": "Downloading", "progressDetail": {"current": 1_500_000_000, "total": 6_000_000_000}, "id": "c"},
        ]
        for event in events:
            layers.take(event)
        assert layers.text() == "fetching the image: 1 of 3 layers, 1.5 of 6.0 GB"
        layers.take({"status": "Extracting", "progressDetail": {"current": 1, "total": 6_000_000_000}, "id": "c"})
        assert layers.text() == "fetching the image: 1 of 3 layers, 6.0 of 6.0 GB"
        layers.take({"status": "Pull complete", "progressDetail": {}, "id": "c"})
        assert layers.text() == "fetching the image: 2 of 3 layers, 6.0 of 6.0 GB"

    def test_fetch_raises_when_the_disk_fills_up(self) -> None:
        client = fake(
            pulled=[{"status": "Pulling fs layer", "id": "a"}, {"error": "write /x: no space left on device"}]
        )
        reports: list[str] = []
        with pytest.raises(LaunchError, match=r"The image a:b can't be fetched: the disk is full; `docker system df`"):
            engine.fetch(client, "a:b", reports.append)
        assert reports == ["fetching a:b", "fetching the image: 0 of 1 layers"]


class TestADistantEngine:
    @pytest.mark.parametrize("base_url", ["http://gpu:2375", "https://10.0.0.5:2376", "http+docker://ssh"])
    def test_loopback_address_is_rejected_for_a_remote_engine(self, base_url: str) -> None:
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(LaunchError, match=r"It can't start: the Docker engine at .* is on another machine"):
                engine.require_reachable(fake(base_url=base_url), server(host=host), "It can't start")

    def test_other_address_is_accepted_for_a_remote_engine(self) -> None:
        engine.require_reachable(fake(base_url="http://gpu:2375"), server(host="10.0.0.5"), "x")

    @pytest.mark.parametrize(
        "base_url",
        ["http+docker://localhost", "http+docker://localnpipe", "http://127.0.0.1:2375", "http://[::1]:2375"],
    )
    def test_loopback_address_is_accepted_for_a_local_engine(self, base_url: str) -> None:
        engine.require_reachable(fake(base_url=base_url), server(), "x")

    def test_ssh_engine_is_not_local(self) -> None:
        assert not engine.is_local(fake(base_url="http+docker://ssh"))


class TestAnEngineThatDoesNotAnswer:
    @pytest.fixture(autouse=True)
    def _none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*_: object) -> None:
            raise LaunchError("none answers")

        monkeypatch.setattr(engine, "connect", refuse)
        monkeypatch.setattr(engine, "_USUAL_SOCKET", tmp_path / "docker.sock")
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("VLLM_LAUNCH_STATE", str(tmp_path / "state"))

    def asked(self) -> tuple[list[str], list[str]]:
        reports: list[str] = []
        return [runtime.name for runtime in available_runtimes(reports.append)], reports

    def test_no_message_when_no_engine_is_expected(self) -> None:
        assert self.asked() == (["process"], [])

    def test_message_when_docker_host_is_set_and_no_engine_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://gpu:2375")
        assert self.asked() == (["process"], ["Containers are left out. none answers"])

    def test_message_when_the_socket_exists_and_no_engine_answers(self, tmp_path: Path) -> None:
        (tmp_path / "docker.sock").touch()
        assert self.asked()[1] == ["Containers are left out. none answers"]

    def test_message_when_docker_is_installed_and_no_engine_answers(self, tmp_path: Path) -> None:
        (tmp_path / "dockerd").touch(mode=0o755)
        assert self.asked()[1] == ["Containers are left out. none answers"]


def fake(**answers: Any) -> Any:
    """A fake engine with given answers, for cases that a real engine cannot reproduce."""

    def missing(_: str) -> None:
        raise ImageNotFound("no such image")

    return SimpleNamespace(
        info=lambda: answers.get("info", {}),
        images=SimpleNamespace(get=missing),
        api=SimpleNamespace(
            base_url=answers.get("base_url", "http+docker://localhost"), pull=lambda *_, **__: answers["pulled"]
        ),
        containers=answers.get("containers"),
    )


class TestGpus:
    @pytest.fixture(autouse=True)
    def _no_hook(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

    @pytest.mark.parametrize(
        "info",
        [
            {"Runtimes": {"runc": {}, "nvidia": {}}},
            {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]},
        ],
    )
    def test_engine_with_gpus_is_accepted(self, info: dict[str, Any]) -> None:
        engine.require_gpu(fake(info=info), "x")

    def test_engine_with_the_toolkit_hook_is_accepted(self, tmp_path: Path) -> None:
        hook = tmp_path / "nvidia-container-runtime-hook"
        hook.touch(mode=0o755)
        engine.require_gpu(fake(info={"Runtimes": {"runc": {}}}), "x")

    def test_remote_engine_is_not_checked_for_gpus(self) -> None:
        engine.require_gpu(fake(info={"Runtimes": {"runc": {}}}, base_url="http://gpu:2375"), "x")

    def test_engine_without_gpus_is_rejected_with_advice(self) -> None:
        with pytest.raises(LaunchError, match=r"It can't start: .*nvidia-ctk runtime configure --runtime=docker"):
            engine.require_gpu(fake(info={"Runtimes": {"runc": {}}, "DiscoveredDevices": None}), "It can't start")


class Going:
    """A container that another program removes at the same time."""

    id = "c0ffee"

    def __init__(self, stop: Exception | None, remove: Exception | None) -> None:
        self.errors = {"stop": stop, "remove": remove}

    def stop(self, timeout: int) -> None:
        self._raise("stop")

    def remove(self, **_: bool) -> None:
        self._raise("remove")

    def _raise(self, what: str) -> None:
        if error := self.errors[what]:
            raise error


def refusing(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation="removal of container is already in progress")


@pytest.mark.parametrize(
    ("stop", "remove"), [(NotFound("gone"), None), (None, NotFound("gone")), (None, refusing(409))]
)
def test_stop_is_harmless_when_another_program_removes_the_container(
    stop: Exception | None, remove: Exception | None
) -> None:
    going = Going(stop, remove)
    runtime = Containers(fake(containers=SimpleNamespace(get=lambda _: going)))
    runtime.stop(Instance(server(), "docker", "running", "c0ffee", 0.0), 1.5)
    assert any(going.errors.values())


def test_stop_raises_when_the_engine_rejects_it() -> None:
    runtime = Containers(fake(containers=SimpleNamespace(get=lambda _: Going(None, refusing(500)))))
    with pytest.raises(LaunchError, match="The container chat cannot be stopped"):
        runtime.stop(Instance(server(), "docker", "running", "c0ffee", 0.0), 1.5)


def test_prepare_raises_for_a_missing_key_file(tmp_path: Path) -> None:
    runtime = Containers(fake())
    with pytest.raises(LaunchError, match=r"api_key_file .*/none, cannot be read: No such file"):
        runtime.prepare(server(api_key_file=tmp_path / "none"), lambda _: None)


def test_prepare_raises_for_a_host_name_before_the_fetch() -> None:
    runtime = Containers(fake(containers=SimpleNamespace(list=lambda **_: [], get=no_such_container)))
    with pytest.raises(LaunchError, match="'gpu-1', is a name"):
        runtime.prepare(server(host="gpu-1"), lambda _: None)


def test_port_error_names_the_server_that_runs_as_a_process() -> None:
    records = Records()
    records.begin("other")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        here = identity(os.getpid())
        assert here is not None
        records.write(
            Record(
                server=server(name="other", port=port),
                leader=here,
                launcher=here,
                boot_id=boot_id(),
                log=Path("/tmp/log"),
                started_at=1.5,
            )
        )
        runtime = Containers(fake(containers=SimpleNamespace(list=lambda **_: [], get=no_such_container)))
        with pytest.raises(LaunchError, match=f"port {port} is taken by the server other.*vllm-launch down other"):
            runtime.prepare(server(port=port), lambda _: None)


def no_such_container(_: str) -> None:
    raise NotFound("no such container")


def test_guard_waits_for_an_unreachable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Iterator[Exception | None] = iter([OSError("restarting")] * 30 + [None] * 4)
    swept: list[str] = []

    def sweep(label: str) -> None:
        if error := next(outcomes):
            raise error
        swept.append(label)

    monkeypatch.setattr(container_guard, "sweep", sweep)
    monkeypatch.setattr(container_guard, "_EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    container_guard.main("a=b")
    assert swept == ["a=b", "a=b", "a=b", "a=b"], "more than once: the engine may have been making one"
