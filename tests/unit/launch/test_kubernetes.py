"""Kubernetes manifests, generated from the descriptions of servers and checked with Kubernetes' schemas."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml

from tests.unit.launch.custom_resources import SCHEMAS
from vllm_launch import config, container, kubernetes, metrics
from vllm_launch.compose import monitoring
from vllm_launch.kubernetes import Cluster
from vllm_launch.kubernetes.scaling import TRIGGERS
from vllm_launch.presets import GPU, MODEL_CACHE, PRESETS
from vllm_launch.runtimes.base import LaunchError
from vllm_launch.servers import Server

VERSIONS = ("1.25", "1.30", "1.37")
"""Versions of Kubernetes: the oldest and the newest with schemas, and one in between."""
KEY = "sk-5ecret"
Run = Callable[..., tuple[int, str, str]]
FILE = """
[servers.vllm-llm]
max_model_len = 16384

[servers.coder]
model = "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8"
port = 8003
gpus = [0, 1]
tensor_parallel_size = 2
shm_size = "512m"
env = { A = "$(HOME) ${B}" }
extra_args = ["--hf-overrides", '{"c": "$(d)"}']
volumes = { "/srv/models" = "/models:ro", huggingface = "/root/.cache/huggingface" }

[servers.small]
preset = "vllm-embed-cpu"
port = 8004
env = { VLLM_CPU_KVCACHE_SPACE = "16" }
"""
MINE = Server(name="mine", model="a/b", port=9000, gpus=(0,))


@pytest.fixture
def described(tmp_path: Path) -> list[Server]:
    (tmp_path / "servers.toml").write_text(FILE)
    return [*config.load(tmp_path / "servers.toml").servers.values()]


def read(servers: Sequence[Server], cluster: Cluster | None = None) -> list[dict[str, Any]]:
    """The documents of the file."""
    return [*yaml.safe_load_all(kubernetes.generate(servers, cluster))]


def only(kind: str, server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    """The object of this kind."""
    (found,) = [each for each in read([server], cluster) if each["kind"] == kind]
    return found


def pod(server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = only("Deployment", server, cluster)["spec"]["template"]["spec"]
    return spec


def vllm(server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    """The container of the pod."""
    (found,) = pod(server, cluster)["containers"]
    assert isinstance(found, dict)
    return found


def judge(manifest: Mapping[str, Any], version: str) -> None:
    """Raise if a cluster of this version would reject the manifest or ignore one of its fields."""
    if manifest["kind"] in SCHEMAS:
        jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
    else:
        kubernetes_validate.validate(dict(manifest), version, strict=True)


# --- validity


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_kubernetes_accepts_every_object_of_a_preset(name: str, version: str) -> None:
    for manifest in read([PRESETS[name]], Cluster(namespace="llm", claim="models")):
        judge(manifest, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cluster", [Cluster(), Cluster(replicas=3, max_replicas=3)], ids=["scaled", "fixed"])
def test_kubernetes_accepts_every_object_of_new_servers(
    described: list[Server], cluster: Cluster, version: str
) -> None:
    for manifest in read(described, cluster):
        judge(manifest, version)


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodMonitor", "ScaledObject"])
def test_schema_rejects_an_unknown_field(kind: str) -> None:
    manifest = only(kind, MINE)
    manifest["spec"]["enableServiceLink"] = False
    with pytest.raises(jsonschema.ValidationError, match="enableServiceLink"):
        judge(manifest, VERSIONS[-1])


def test_scaling_behavior_is_valid_for_a_horizontal_pod_autoscaler() -> None:
    behavior = only("ScaledObject", MINE)["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "mine"}, "maxReplicas": 2, "behavior": behavior}
    judge({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec}, VERSIONS[-1])


def test_each_server_has_four_objects(described: list[Server]) -> None:
    kinds = ["Deployment", "Service", "PodMonitor", "ScaledObject"]
    assert [(each["kind"], each["metadata"]["name"]) for each in read(described)] == [
        (kind, server.name) for server in described for kind in kinds
    ]


# --- selectors and ports


@pytest.mark.parametrize("name", PRESETS)
def test_objects_select_only_the_pods_of_their_server(name: str) -> None:
    labels = only("Deployment", PRESETS[name])["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == name
    assert only("Deployment", PRESETS[name])["spec"]["selector"]["matchLabels"] == labels
    assert only("Service", PRESETS[name])["spec"]["selector"] == labels
    assert only("PodMonitor", PRESETS[name])["spec"]["selector"]["matchLabels"] == labels
    assert only("ScaledObject", PRESETS[name])["spec"]["scaleTargetRef"] == {"name": name}


@pytest.mark.parametrize("name", PRESETS)
def test_service_maps_the_described_port_to_vllms_port(name: str) -> None:
    (port,) = only("Service", PRESETS[name])["spec"]["ports"]
    (inside,) = vllm(PRESETS[name])["ports"]
    assert port["port"] == PRESETS[name].port
    assert port["targetPort"] == inside["name"]
    arguments = vllm(PRESETS[name])["args"]
    assert arguments[arguments.index("--port") + 1] == str(inside["containerPort"])
    assert arguments[arguments.index("--host") + 1] == "0.0.0.0"


def test_probes_and_metrics_use_vllms_paths() -> None:
    (endpoint,) = only("PodMonitor", MINE)["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert vllm(MINE)[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_namespace_applies_to_all_objects_and_is_optional() -> None:
    assert {each["metadata"]["namespace"] for each in read([MINE], Cluster(namespace="llm"))} == {"llm"}
    assert not any("namespace" in each["metadata"] for each in read([MINE]))


# --- containers


def test_container_has_the_shared_command_and_a_shutdown_timeout() -> None:
    found = vllm(MINE)
    assert found["image"] == MINE.image
    assert undollared(found["command"]) == container.entrypoint(MINE)
    assert undollared(found["args"]) == [*container.command(MINE), "--shutdown-timeout", "120"]


def undollared(texts: Sequence[str]) -> list[str]:
    """The values after Kubernetes' expansion: `$$` is a dollar. Fails if a `$(NAME)` is left."""
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", text) for text in texts)
    return [text.replace("$$", "$") for text in texts]


def test_dollar_in_a_description_is_escaped(described: list[Server]) -> None:
    coder = next(server for server in described if server.name == "coder")
    assert undollared(vllm(coder)["args"])[-3] == '{"c": "$(d)"}'
    (value,) = [each["value"] for each in vllm(coder)["env"] if each["name"] == "A"]
    assert undollared([value]) == ["$(HOME) ${B}"]


def test_service_links_are_disabled() -> None:
    assert pod(Server(name="vllm", model="a/b", port=8000))["enableServiceLinks"] is False


def test_startup_probe_and_rollout_allow_half_an_hour() -> None:
    probe = vllm(MINE)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 1800
    assert only("Deployment", MINE)["spec"]["progressDeadlineSeconds"] > 1800


def test_readiness_fails_before_liveness() -> None:
    found = vllm(MINE)
    assert found["readinessProbe"]["failureThreshold"] < found["livenessProbe"]["failureThreshold"]


@pytest.mark.parametrize(("own", "seconds"), [(None, 120), (300, 300), (0, 0)])
def test_grace_period_covers_the_shutdown_timeout(own: int | None, seconds: int) -> None:
    server = MINE.model_copy(update={"shutdown_timeout": own})
    leaves = int(vllm(server)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod(server)["terminationGracePeriodSeconds"] > leaves + seconds
    assert sum(argument.startswith("--shutdown-timeout") for argument in vllm(server)["args"]) == 1


def test_pod_has_no_privileges_and_no_cluster_token() -> None:
    assert vllm(MINE)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod(MINE)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert pod(MINE)["automountServiceAccountToken"] is False


# --- resources and volumes


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"gpus": (3,)}, "1"),
        ({"gpus": (0, 1), "tensor_parallel_size": 2}, "2"),
        ({"gpus": "all", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "4"),
    ],
)
def test_pod_has_the_described_number_of_gpus(fields: dict[str, Any], gpus: str) -> None:
    server = Server(name="mine", model="a/b", port=9000, **fields)
    assert vllm(server)["resources"]["limits"] == {"nvidia.com/gpu": gpus}
    assert vllm(server)["resources"]["requests"]["cpu"] == str(2 + int(gpus))
    assert pod(server)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_cpu_server_requests_cores_and_memory_for_its_kv_cache(described: list[Server]) -> None:
    small = next(server for server in described if server.name == "small")
    assert vllm(small)["resources"] == {"requests": {"cpu": "4", "memory": "24Gi"}}
    assert "tolerations" not in pod(small)


def test_update_ends_the_old_pod_first_only_on_gpus() -> None:
    def surge(name: str) -> int:
        number: int = only("Deployment", PRESETS[name])["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        return number

    assert {name: surge(name) for name in PRESETS} == {name: 0 if name in GPU else 1 for name in PRESETS}


@pytest.mark.parametrize(("size", "quantity"), [("8g", "8Gi"), ("512m", "512Mi"), ("1GB", "1Gi"), ("4096", "4096")])
def test_shared_memory_volume_has_the_described_size(size: str, quantity: str) -> None:
    spec = pod(MINE.model_copy(update={"shm_size": size}))
    (name,) = [mount["name"] for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": quantity}} in spec["volumes"]


def test_invalid_size_is_rejected() -> None:
    with pytest.raises(LaunchError, match="mine: shm_size is 'much'"):
        pod(MINE.model_copy(update={"shm_size": "much"}))


def mounted(server: Server, cluster: Cluster | None = None) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Path in the container -> (mount, volume)."""
    spec = pod(server, cluster)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    return {mount["mountPath"]: (mount, volumes[mount["name"]]) for mount in spec["containers"][0]["volumeMounts"]}


def test_named_volumes_use_an_empty_dir_or_a_folder_of_the_claim() -> None:
    for cluster, volume in (
        (Cluster(), {"emptyDir": {}}),
        (Cluster(claim="models"), {"persistentVolumeClaim": {"claimName": "models"}}),
    ):
        found = mounted(PRESETS["vllm-llm"], cluster)
        for source, path in PRESETS["vllm-llm"].volumes.items():
            mount, kept = found[path]
            assert mount["subPath"] == source
            assert kept == {"name": mount["name"], **volume}


def test_folder_is_a_host_path_and_can_be_read_only(described: list[Server]) -> None:
    coder = next(server for server in described if server.name == "coder")
    mount, volume = mounted(coder)["/models"]
    assert mount["readOnly"] is True
    assert volume["hostPath"] == {"path": "/srv/models"}
    assert "# Every node that can run this pod must have /srv/models." in kubernetes.generate([coder])


def test_home_folder_is_rejected() -> None:
    with pytest.raises(LaunchError, match="mine: the volume '~/models' is in your home"):
        pod(MINE.model_copy(update={"volumes": {"~/models": "/models"}}))


# --- keys


def with_key(folder: Path, name: str = "mine") -> Server:
    (folder / f"{name}.key").write_text(KEY)
    return Server(name=name, model="a/b", port=9000, api_key_file=folder / f"{name}.key")


def test_key_is_mounted_and_appears_nowhere_else(tmp_path: Path) -> None:
    server = with_key(tmp_path)
    folder, _, file = container.KEY_FILE.rpartition("/")
    secret = mounted(server)[folder][1]["secret"]
    assert secret["secretName"] == "vllm-api-key"
    assert secret["items"] == [{"key": "api-key", "path": file}]
    assert KEY not in kubernetes.generate([server])


def test_key_secret_is_required_only_with_a_described_key(tmp_path: Path) -> None:
    folder = container.KEY_FILE.rpartition("/")[0]
    assert mounted(with_key(tmp_path))[folder][1]["secret"]["optional"] is False
    assert mounted(MINE)[folder][1]["secret"]["optional"] is True


def test_hub_token_comes_from_an_optional_secret() -> None:
    assert vllm(MINE.model_copy(update={"env": {}}))["env"] == [
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}},
        }
    ]


def test_manifests_show_the_secret_commands_without_values(tmp_path: Path) -> None:
    head = kubernetes.generate([with_key(tmp_path)], Cluster(namespace="llm")).partition("apiVersion")[0]
    assert f"{container.READ_KEY}{tmp_path}/mine.key |" in head
    create = "kubectl --namespace llm create secret generic"
    assert f"{create} vllm-api-key --from-file=api-key=/dev/stdin" in head
    assert f"{create} hf-token --from-file=token=/dev/stdin" in head


def test_different_keys_in_one_namespace_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"different api_key_files.*--namespace"):
        kubernetes.generate([with_key(tmp_path, "one"), with_key(tmp_path, "two")])


# --- scaling


def test_replicas_are_set_by_the_autoscaler_or_the_deployment() -> None:
    assert "replicas" not in only("Deployment", MINE, Cluster(replicas=2))["spec"]
    spec = only("ScaledObject", MINE, Cluster(replicas=2))["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 4)
    fixed = Cluster(replicas=2, max_replicas=2)
    assert only("Deployment", MINE, fixed)["spec"]["replicas"] == 2
    assert "ScaledObject" not in [each["kind"] for each in read([MINE], fixed)]


@pytest.mark.parametrize("name", PRESETS)
def test_triggers_are_the_queue_and_for_generation_the_kv_cache(name: str) -> None:
    spec = only("ScaledObject", PRESETS[name], Cluster(namespace="llm", prometheus="http://prometheus:9090"))["spec"]
    names = [metrics.WAITING, *([metrics.KV_CACHE_USAGE] if PRESETS[name].runner != "pooling" else [])]
    assert len(spec["triggers"]) == len(names)
    for trigger, metric in zip(spec["triggers"], names, strict=True):
        query = trigger["metadata"]["query"]
        assert isinstance(promql_parser.parse(query), promql_parser.AggregateExpr)  # one value, not one per pod
        assert f'{metric}{{job="vllm", server="{name}", namespace="llm"}}' in query
        assert trigger["metadata"]["serverAddress"] == "http://prometheus:9090"


def test_missing_metrics_do_not_scale_down() -> None:
    triggers = only("ScaledObject", MINE)["spec"]["triggers"]
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in triggers} == {"false"}


def test_metrics_have_the_labels_of_queries_alerts_and_dashboard() -> None:
    spec = only("PodMonitor", MINE)["spec"]
    labels = only("Deployment", MINE)["spec"]["template"]["metadata"]["labels"]
    assert labels[spec["jobLabel"]] == monitoring.JOB
    (relabeling,) = spec["podMetricsEndpoints"][0]["relabelings"]
    assert relabeling == {"targetLabel": "server", "replacement": "mine"}


def test_trigger_metrics_are_on_the_dashboard() -> None:
    shown = " ".join(query for panel in monitoring.PANELS for query in panel.queries)
    for row in TRIGGERS:
        assert re.findall(r"vllm:\w+", row.query)[0] in shown


# --- comments and errors


def test_manifests_show_the_urls_for_a_service() -> None:
    pair = [PRESETS[name] for name in GPU]
    assert "VLLM_URLS=http://vllm-llm:8001,http://vllm-embed:8002\n" in kubernetes.generate(pair)
    urls = "VLLM_URLS=http://vllm-llm.llm:8001,http://vllm-embed.llm:8002\n"
    assert urls in kubernetes.generate(pair, Cluster(namespace="llm"))


def test_manifests_note_servers_that_share_a_gpu() -> None:
    assert "# vllm-llm, vllm-embed: these servers share a GPU in their descriptions." in kubernetes.generate(
        [PRESETS[name] for name in GPU]
    )
    other = Server(name="other", model="a/b", port=9001, gpus=(1,))
    assert "sharing a GPU" not in kubernetes.generate([MINE, other])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"namespace": "My_own"}, "The namespace 'My_own' must consist of at most 63 lower-case letters"),
        ({"replicas": 0}, "must be at least 1, not 0"),
        ({"replicas": 3, "max_replicas": 2}, "maximum of 2 replicas is less than the minimum of 3"),
    ],
)
def test_invalid_cluster_settings_are_rejected(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(LaunchError, match=reason):
        Cluster(**wrong)


def test_invalid_service_name_is_rejected() -> None:
    with pytest.raises(LaunchError, match="Rename the server '8b': the name of a Service must begin with a letter"):
        kubernetes.generate([Server(name="8b", model="a/b", port=9000)])


# --- the command


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_prints_the_files_servers_the_pair_or_the_named_ones(in_folder: Path, run: Run) -> None:
    assert run("k8s") == (0, kubernetes.generate([PRESETS[name] for name in GPU]), "")
    assert run("k8s", "vllm-embed-cpu") == (0, kubernetes.generate([PRESETS["vllm-embed-cpu"]]), "")
    (in_folder / "vllm-launch.toml").write_text('[servers.mine]\nmodel = "a/b"\nport = 9000\ngpus = [0]\n')
    keeps_models = MINE.model_copy(update={"volumes": MODEL_CACHE})
    assert run("k8s") == (0, kubernetes.generate([keeps_models]), "")


def test_command_passes_the_cluster_options_and_writes_a_file(in_folder: Path, run: Run) -> None:
    cluster = ("--namespace", "llm", "--replicas", "2", "--max-replicas", "3", "--prometheus", "http://p:1")
    assert run("k8s", "vllm-llm", *cluster, "--claim", "models", "--output", "servers.yaml") == (
        0,
        "servers.yaml\n",
        "",
    )
    expected = kubernetes.generate([PRESETS["vllm-llm"]], Cluster("llm", 2, 3, "http://p:1", "models"))
    assert (in_folder / "servers.yaml").read_text() == expected


@pytest.mark.usefixtures("in_folder")
def test_command_reports_an_unwritable_file(run: Run) -> None:
    error = "vllm-launch: nowhere/servers.yaml cannot be written: No such file or directory.\n"
    assert run("k8s", "--output", "nowhere/servers.yaml") == (1, "", error)
