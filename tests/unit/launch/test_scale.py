"""The servers of docs/scale.md: the examples are valid and agree with the text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_launch import config
from vllm_launch.servers import Server

DOCUMENT = Path(__file__).parent.parent.parent.parent / "docs" / "scale.md"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[config.Config]:
    """The TOML examples of the document, in order."""
    return read_examples(tmp_path_factory.mktemp("scale"))


def read_examples(folder: Path) -> list[config.Config]:
    found = []
    for number, (indent, text) in enumerate(
        re.findall(r"^( *)```toml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.M | re.S)
    ):
        file = folder / f"{number}.toml"
        file.write_text(re.sub(f"^{indent}", "", text, flags=re.M))
        found.append(config.load(file))
    return found


def test_second_replica_has_a_separate_port_and_gpu(configs: list[config.Config]) -> None:
    one, other = configs[0].servers.values()
    assert (one.port, one.gpus) != (other.port, other.gpus)
    assert one.model_copy(update={"name": other.name, "port": other.port, "gpus": other.gpus}) == other


def test_model_larger_than_a_gpu_is_split_among_its_gpus(configs: list[config.Config]) -> None:
    (server,) = configs[1].servers.values()
    assert value_of(server, "--tensor-parallel-size") == str(len(server.gpus))


@pytest.mark.parametrize(("place", "joined_by"), [(2, "--distributed-executor-backend"), (3, "--nnodes")])
def test_model_larger_than_a_node_is_split_among_two_nodes(
    configs: list[config.Config], place: int, joined_by: str
) -> None:
    (server,) = configs[place].servers.values()
    assert value_of(server, "--tensor-parallel-size") == "8"
    assert value_of(server, "--pipeline-parallel-size") == "2"
    assert value_of(server, joined_by) in ("ray", "2")
    assert server.gpus == "all"
    assert {"VLLM_HOST_IP", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"} <= set(server.env)


def value_of(server: Server, flag: str) -> str:
    arguments = server.arguments()
    return arguments[arguments.index(flag) + 1]
