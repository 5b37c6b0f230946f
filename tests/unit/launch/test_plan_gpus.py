"""The GPUs of a plan: by name, by memory, and those of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_launch.plan import cards, gpus_here, named
from vllm_launch.plan.gpus import GIB, MIB, NAMED, parsed
from vllm_launch.runtimes.base import LaunchError


@pytest.mark.parametrize("text", ["80GiB", "80 GB", "80g", "81920MiB"])
def test_named_accepts_a_memory_size(text: str) -> None:
    assert named(text).memory == 80 * GIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100", "H100"),
        ("rtx 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("A100-40", "A100-40"),
        ("A100-80GB", "A100-80"),
        ("l4", "L4"),
        ("L40S", "L40S"),
    ],
)
def test_named_accepts_common_names(text: str, name: str) -> None:
    assert named(text).memory == NAMED[name] * MIB


def test_unknown_gpu_error_lists_the_known_ones() -> None:
    with pytest.raises(
        LaunchError, match=r"Unknown GPU 'H1000'. Pass its memory, such as 80GiB, or one of: T4, .*H200"
    ):
        named("H1000")


def test_cards_count_several_gpus() -> None:
    found = cards(["2xH100", "80GiB"])
    assert [(gpu.index, gpu.name) for gpu in found] == [(0, "H100"), (1, "H100"), (2, "80GiB")]


def test_named_rejects_zero_memory() -> None:
    with pytest.raises(LaunchError, match="no memory"):
        named("0GiB")


def test_total_is_less_than_the_memory_of_the_card() -> None:
    # vLLM's logs: 22.04 GiB of an L4's 23,034 MiB, 79.18 of an H100's 81,559, 79.25 of an A100's 81,920.
    for name, seen in (("L4", 22.04), ("H100", 79.18), ("A100-80", 79.25)):
        assert seen * 0.98 < named(name).total / GIB <= seen + 0.01


def test_parsed_reads_the_output_of_nvidia_smi() -> None:
    gpus = parsed("0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA A100-SXM4-80GB, 81920\n")
    assert [(gpu.index, gpu.name, gpu.memory) for gpu in gpus] == [
        (0, "NVIDIA H100 80GB HBM3", 81559 * MIB),
        (1, "NVIDIA A100-SXM4-80GB", 81920 * MIB),
    ]
    assert [gpu.is_a100 for gpu in gpus] == [False, True]


@pytest.mark.parametrize("output", ["", "No devices were found\n", "0, NVIDIA GB10, [N/A]\n"])
def test_parsed_rejects_output_without_memory(output: str) -> None:
    with pytest.raises(LaunchError, match="lists no GPU with memory"):
        parsed(output)


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_here_queries_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'test "$1" = --query-gpu=index,name,memory.total && echo "0, NVIDIA L4, 23034"\n', monkeypatch)
    assert [(gpu.name, gpu.memory) for gpu in gpus_here()] == [("NVIDIA L4", 23034 * MIB)]


def test_gpus_here_quotes_a_failed_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "NVIDIA-SMI has failed because it couldn\'t communicate"; exit 9\n', monkeypatch)
    with pytest.raises(LaunchError, match=r"status 9: NVIDIA-SMI has failed"):
        gpus_here()


def test_gpus_here_raises_with_advice_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"nvidia-smi is not installed.*--gpu H100, --gpu 80GiB"):
        gpus_here()
