"""Kubernetes manifests: written from the descriptions of servers, judged by Kubernetes' own schemas."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
"""Of Kubernetes: the oldest and the newest that have schemas, and one between."""
KEY = "sk-5ecret"
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
    """The file's documents."""
    return [*yaml.safe_load_all(kubernetes.generate(servers, cluster))]


def only(kind: str, server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    """The object of this kind."""
    (found,) = [each for each in read([server], cluster) if each["kind"] == kind]
    return found


def pod(server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = only("Deployment", server, cluster)["spec"]["template"]["spec"]
    return spec


def vllm(server: Server, cluster: Cluster | None = None) -> dict[str, Any]:
    """The pod's one container."""
    (found,) = pod(server, cluster)["containers"]
    assert isinstance(found, dict)
    return found


def judge(manifest: Mapping[str, Any], version: str) -> None:
    """Raises where a cluster of this version would refuse it, or ignore one of its fields."""
    if manifest["kind"] in SCHEMAS:
        jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
    else:
        kubernetes_validate.validate(dict(manifest), version, strict=True)


# --- what a cluster takes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_kubernetes_accepts_every_object_of_a_preset(name: str, version: str) -> None:
    for manifest in read([PRESETS[name]], Cluster(namespace="llm", claim="models")):
        judge(manifest, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cluster", [Cluster(), Cluster(replicas=3, max_replicas=3)], ids=["scaled", "fixed"])
def test_kubernetes_accepts_every_object_of_servers_of_ones_own(
    described: list[Server], cluster: Cluster, version: str
) -> None:
    for manifest in read(described, cluster):
        judge(manifest, version)


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodMonitor", "ScaledObject"])
def test_a_field_that_kubernetes_does_not_know_is_told(kind: str) -> None:
    manifest = only(kind, MINE)
    manifest["spec"]["enableServiceLink"] = False
    with pytest.raises(jsonschema.ValidationError, match="enableServiceLink"):
        judge(manifest, VERSIONS[-1])


def test_how_fast_it_scales_is_what_a_horizontal_pod_autoscaler_takes() -> None:
    behavior = only("ScaledObject", MINE)["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "mine"}, "maxReplicas": 2, "behavior": behavior}
    judge({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec}, VERSIONS[-1])


def test_each_server_has_a_deployment_a_service_a_pod_monitor_and_a_scaled_object(described: list[Server]) -> None:
    kinds = ["Deployment", "Service", "PodMonitor", "ScaledObject"]
    assert [(each["kind"], each["metadata"]["name"]) for each in read(described)] == [
        (kind, server.name) for server in described for kind in kinds
    ]


# --- what belongs together


@pytest.mark.parametrize("name", PRESETS)
def test_all_objects_of_a_server_find_its_pods_and_no_others(name: str) -> None:
    labels = only("Deployment", PRESETS[name])["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == name
    assert only("Deployment", PRESETS[name])["spec"]["selector"]["matchLabels"] == labels
    assert only("Service", PRESETS[name])["spec"]["selector"] == labels
    assert only("PodMonitor", PRESETS[name])["spec"]["selector"]["matchLabels"] == labels
    assert only("ScaledObject", PRESETS[name])["spec"]["scaleTargetRef"] == {"name": name}


@pytest.mark.parametrize("name", PRESETS)
def test_the_service_has_the_described_port_and_leads_to_the_one_that_vllm_listens_on(name: str) -> None:
    (port,) = only("Service", PRESETS[name])["spec"]["ports"]
    (inside,) = vllm(PRESETS[name])["ports"]
    assert port["port"] == PRESETS[name].port
    assert port["targetPort"] == inside["name"]
    arguments = vllm(PRESETS[name])["args"]
    assert arguments[arguments.index("--port") + 1] == str(inside["containerPort"])
    assert arguments[arguments.index("--host") + 1] == "0.0.0.0"


def test_probes_and_metrics_are_asked_for_where_vllm_has_them() -> None:
    (endpoint,) = only("PodMonitor", MINE)["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert vllm(MINE)[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_a_namespace_is_that_of_all_objects_and_without_one_kubectl_chooses() -> None:
    assert {each["metadata"]["namespace"] for each in read([MINE], Cluster(namespace="llm"))} == {"llm"}
    assert not any("namespace" in each["metadata"] for each in read([MINE]))


# --- how a server runs


def test_a_container_runs_what_it_runs_everywhere_and_ends_its_answers_when_it_is_stopped() -> None:
    found = vllm(MINE)
    assert found["image"] == MINE.image
    assert undollared(found["command"]) == container.entrypoint(MINE)
    assert undollared(found["args"]) == [*container.command(MINE), "--shutdown-timeout", "120"]


def undollared(texts: Sequence[str]) -> list[str]:
    """As Kubernetes reads them: `$$` is a dollar, and no `$(NAME)` is left that it would look up."""
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", text) for text in texts)
    return [text.replace("$$", "$") for text in texts]


def test_a_dollar_in_a_description_stays_a_dollar(described: list[Server]) -> None:
    coder = next(server for server in described if server.name == "coder")
    assert undollared(vllm(coder)["args"])[-3] == '{"c": "$(d)"}'
    (value,) = [each["value"] for each in vllm(coder)["env"] if each["name"] == "A"]
    assert undollared([value]) == ["$(HOME) ${B}"]


def test_no_service_of_the_namespace_sets_variables_that_vllm_takes_for_its_own() -> None:
    assert pod(Server(name="vllm", model="a/b", port=8000))["enableServiceLinks"] is False


def test_a_model_has_half_an_hour_to_be_downloaded_and_loaded_and_a_rollout_waits_for_it() -> None:
    probe = vllm(MINE)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 1800
    assert only("Deployment", MINE)["spec"]["progressDeadlineSeconds"] > 1800


def test_a_server_that_hangs_gets_no_requests_before_it_is_started_again() -> None:
    found = vllm(MINE)
    assert found["readinessProbe"]["failureThreshold"] < found["livenessProbe"]["failureThreshold"]


@pytest.mark.parametrize(("own", "seconds"), [(None, 120), (300, 300), (0, 0)])
def test_a_pod_is_not_killed_before_vllm_has_had_its_time_to_end(own: int | None, seconds: int) -> None:
    server = MINE.model_copy(update={"shutdown_timeout": own})
    leaves = int(vllm(server)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod(server)["terminationGracePeriodSeconds"] > leaves + seconds
    assert sum(argument.startswith("--shutdown-timeout") for argument in vllm(server)["args"]) == 1


def test_a_pod_gains_no_privileges_and_has_no_token_of_the_cluster() -> None:
    assert vllm(MINE)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod(MINE)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert pod(MINE)["automountServiceAccountToken"] is False


# --- what it is given


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"gpus": (3,)}, "1"),
        ({"gpus": (0, 1), "tensor_parallel_size": 2}, "2"),
        ({"gpus": "all", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "4"),
    ],
)
def test_a_pod_has_as_many_gpus_as_its_description_names(fields: dict[str, Any], gpus: str) -> None:
    server = Server(name="mine", model="a/b", port=9000, **fields)
    assert vllm(server)["resources"]["limits"] == {"nvidia.com/gpu": gpus}
    assert vllm(server)["resources"]["requests"]["cpu"] == str(2 + int(gpus))
    assert pod(server)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_server_without_gpus_asks_for_cores_and_for_memory_that_holds_its_kv_cache(described: list[Server]) -> None:
    small = next(server for server in described if server.name == "small")
    assert vllm(small)["resources"] == {"requests": {"cpu": "4", "memory": "24Gi"}}
    assert "tolerations" not in pod(small)


def test_an_update_waits_for_the_gpu_of_the_old_pod_and_leaves_no_gap_where_there_is_none() -> None:
    def surge(name: str) -> int:
        number: int = only("Deployment", PRESETS[name])["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        return number

    assert {name: surge(name) for name in PRESETS} == {name: 0 if name in GPU else 1 for name in PRESETS}


@pytest.mark.parametrize(("size", "quantity"), [("8g", "8Gi"), ("512m", "512Mi"), ("1GB", "1Gi"), ("4096", "4096")])
def test_shared_memory_is_a_file_system_in_memory_of_the_described_size(size: str, quantity: str) -> None:
    spec = pod(MINE.model_copy(update={"shm_size": size}))
    (name,) = [mount["name"] for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": quantity}} in spec["volumes"]


def test_a_size_that_is_none_is_told() -> None:
    with pytest.raises(LaunchError, match="mine: shm_size is 'much'"):
        pod(MINE.model_copy(update={"shm_size": "much"}))


def mounted(server: Server, cluster: Cluster | None = None) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Path in the container -> (its mount, the volume that lies there)."""
    spec = pod(server, cluster)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    return {mount["mountPath"]: (mount, volumes[mount["name"]]) for mount in spec["containers"][0]["volumeMounts"]}


def test_named_volumes_live_as_long_as_the_pod_or_in_a_claim_each_in_its_own_folder() -> None:
    for cluster, volume in (
        (Cluster(), {"emptyDir": {}}),
        (Cluster(claim="models"), {"persistentVolumeClaim": {"claimName": "models"}}),
    ):
        found = mounted(PRESETS["vllm-llm"], cluster)
        for source, path in PRESETS["vllm-llm"].volumes.items():
            mount, kept = found[path]
            assert mount["subPath"] == source
            assert kept == {"name": mount["name"], **volume}


def test_a_folder_is_the_nodes_and_read_only_where_it_is_described_so(described: list[Server]) -> None:
    coder = next(server for server in described if server.name == "coder")
    mount, volume = mounted(coder)["/models"]
    assert mount["readOnly"] is True
    assert volume["hostPath"] == {"path": "/srv/models"}
    assert "# Every node that it may run on must have /srv/models." in kubernetes.generate([coder])


def test_a_folder_of_ones_home_is_on_no_node() -> None:
    with pytest.raises(LaunchError, match="mine: the volume '~/models' is in your home"):
        pod(MINE.model_copy(update={"volumes": {"~/models": "/models"}}))


# --- keys


def with_key(folder: Path, name: str = "mine") -> Server:
    (folder / f"{name}.key").write_text(KEY)
    return Server(name=name, model="a/b", port=9000, api_key_file=folder / f"{name}.key")


def test_a_key_lies_where_the_server_looks_for_it_and_stands_nowhere(tmp_path: Path) -> None:
    server = with_key(tmp_path)
    folder, _, file = container.KEY_FILE.rpartition("/")
    secret = mounted(server)[folder][1]["secret"]
    assert secret["secretName"] == "vllm-api-key"
    assert secret["items"] == [{"key": "api-key", "path": file}]
    assert KEY not in kubernetes.generate([server])


def test_a_server_with_a_key_never_starts_without_it_and_others_may_have_one(tmp_path: Path) -> None:
    folder = container.KEY_FILE.rpartition("/")[0]
    assert mounted(with_key(tmp_path))[folder][1]["secret"]["optional"] is False
    assert mounted(MINE)[folder][1]["secret"]["optional"] is True


def test_the_hubs_token_comes_from_a_secret_that_need_not_be_there() -> None:
    assert vllm(MINE.model_copy(update={"env": {}}))["env"] == [
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}},
        }
    ]


def test_the_commands_that_make_the_secrets_are_told_without_their_values(tmp_path: Path) -> None:
    head = kubernetes.generate([with_key(tmp_path)], Cluster(namespace="llm")).partition("apiVersion")[0]
    assert f"{container.READ_KEY}{tmp_path}/mine.key |" in head
    create = "kubectl --namespace llm create secret generic"
    assert f"{create} vllm-api-key --from-file=api-key=/dev/stdin" in head
    assert f"{create} hf-token --from-file=token=/dev/stdin" in head


def test_two_keys_in_one_namespace_are_told(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"different api_key_files.*--namespace"):
        kubernetes.generate([with_key(tmp_path, "one"), with_key(tmp_path, "two")])


# --- scaling


def test_the_number_of_replicas_is_the_autoscalers_or_the_deployments_never_both() -> None:
    assert "replicas" not in only("Deployment", MINE, Cluster(replicas=2))["spec"]
    spec = only("ScaledObject", MINE, Cluster(replicas=2))["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 4)
    fixed = Cluster(replicas=2, max_replicas=2)
    assert only("Deployment", MINE, fixed)["spec"]["replicas"] == 2
    assert "ScaledObject" not in [each["kind"] for each in read([MINE], fixed)]


@pytest.mark.parametrize("name", PRESETS)
def test_the_queue_and_where_there_are_answers_the_kv_cache_tell_how_many_are_needed(name: str) -> None:
    spec = only("ScaledObject", PRESETS[name], Cluster(namespace="llm", prometheus="http://prometheus:9090"))["spec"]
    names = [metrics.WAITING, *([metrics.KV_CACHE_USAGE] if PRESETS[name].runner != "pooling" else [])]
    assert len(spec["triggers"]) == len(names)
    for trigger, metric in zip(spec["triggers"], names, strict=True):
        query = trigger["metadata"]["query"]
        assert isinstance(promql_parser.parse(query), promql_parser.AggregateExpr)  # one figure, not one for each pod
        assert f'{metric}{{job="vllm", server="{name}", namespace="llm"}}' in query
        assert trigger["metadata"]["serverAddress"] == "http://prometheus:9090"


def test_figures_that_are_missing_are_no_reason_to_take_replicas_away() -> None:
    triggers = only("ScaledObject", MINE)["spec"]["triggers"]
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in triggers} == {"false"}


def test_metrics_have_the_labels_that_the_queries_the_alerts_and_the_dashboard_ask_for() -> None:
    spec = only("PodMonitor", MINE)["spec"]
    labels = only("Deployment", MINE)["spec"]["template"]["metadata"]["labels"]
    assert labels[spec["jobLabel"]] == monitoring.JOB
    (relabeling,) = spec["podMetricsEndpoints"][0]["relabelings"]
    assert relabeling == {"targetLabel": "server", "replacement": "mine"}


def test_what_it_scales_by_is_on_the_dashboard() -> None:
    shown = " ".join(query for panel in monitoring.PANELS for query in panel.queries)
    for row in TRIGGERS:
        assert re.findall(r"vllm:\w+", row.query)[0] in shown


# --- what is told


def test_a_service_is_told_where_the_servers_are() -> None:
    pair = [PRESETS[name] for name in GPU]
    assert "VLLM_URLS=http://vllm-llm:8001,http://vllm-embed:8002\n" in kubernetes.generate(pair)
    urls = "VLLM_URLS=http://vllm-llm.llm:8001,http://vllm-embed.llm:8002\n"
    assert urls in kubernetes.generate(pair, Cluster(namespace="llm"))


def test_servers_that_share_a_gpu_elsewhere_are_told_to_have_one_each() -> None:
    assert "# vllm-llm, vllm-embed: described as sharing a GPU." in kubernetes.generate([PRESETS[name] for name in GPU])
    other = Server(name="other", model="a/b", port=9001, gpus=(1,))
    assert "sharing a GPU" not in kubernetes.generate([MINE, other])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"namespace": "My_own"}, "The namespace 'My_own' may have lower-case letters"),
        ({"replicas": 0}, "one replica at least, not 0"),
        ({"replicas": 3, "max_replicas": 2}, "3 replicas at least and 2 at most"),
    ],
)
def test_a_cluster_that_can_not_be_is_told(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(LaunchError, match=reason):
        Cluster(**wrong)


def test_a_name_that_no_service_can_have_is_told() -> None:
    with pytest.raises(LaunchError, match="'8b' needs another name: that of a Service begins with a letter"):
        kubernetes.generate([Server(name="8b", model="a/b", port=9000)])


# --- the command


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vllm_launch", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_prints_the_files_servers_or_the_pair_or_those_that_are_named(tmp_path: Path) -> None:
    assert run(tmp_path, "k8s").stdout == kubernetes.generate([PRESETS[name] for name in GPU])
    assert run(tmp_path, "k8s", "vllm-embed-cpu").stdout == kubernetes.generate([PRESETS["vllm-embed-cpu"]])
    (tmp_path / "vllm-launch.toml").write_text('[servers.mine]\nmodel = "a/b"\nport = 9000\ngpus = [0]\n')
    keeps_models = MINE.model_copy(update={"volumes": MODEL_CACHE})
    assert run(tmp_path, "k8s").stdout == kubernetes.generate([keeps_models])


def test_the_command_hands_on_what_it_is_told_of_the_cluster_and_writes_a_file(tmp_path: Path) -> None:
    cluster = ("--namespace", "llm", "--replicas", "2", "--max-replicas", "3", "--prometheus", "http://p:1")
    done = run(tmp_path, "k8s", "vllm-llm", *cluster, "--claim", "models", "--output", "servers.yaml")
    assert (done.returncode, done.stdout) == (0, "servers.yaml\n")
    told = kubernetes.generate([PRESETS["vllm-llm"]], Cluster("llm", 2, 3, "http://p:1", "models"))
    assert (tmp_path / "servers.yaml").read_text() == told


def test_a_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "k8s", "--output", "nowhere/servers.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vllm-launch: nowhere/servers.yaml can't be written: No such file or directory.\n"
