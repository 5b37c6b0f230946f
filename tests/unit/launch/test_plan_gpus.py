"""The GPUs that a plan is made for: this machine's, by name, by memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_launch.plan import cards, gpus_here, named
from vllm_launch.plan.gpus import GIB, MIB, NAMED, parsed
from vllm_launch.runtimes.base import LaunchError


@pytest.mark.parametrize("text", ["80GiB", "80 GB", "80g", "81920MiB"])
def test_a_gpu_is_named_by_its_memory(text: str) -> None:
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
def test_a_gpu_is_named_as_people_name_it(text: str, name: str) -> None:
    assert named(text).memory == NAMED[name] * MIB


def test_an_unknown_gpu_comes_with_those_that_are_known() -> None:
    with pytest.raises(
        LaunchError, match=r"No GPU is known as 'H1000'. Give its memory, as 80GiB, or one of: T4, .*H200"
    ):
        named("H1000")


def test_several_gpus_are_counted_on() -> None:
    found = cards(["2xH100", "80GiB"])
    assert [(gpu.index, gpu.name) for gpu in found] == [(0, "H100"), (1, "H100"), (2, "80GiB")]


def test_a_gpu_without_memory_is_refused() -> None:
    with pytest.raises(LaunchError, match="no memory"):
        named("0GiB")


def test_programs_get_a_little_less_than_a_card_has() -> None:
    # vLLM's logs: 22.04 GiB of an L4's 23,034 MiB, 79.18 of an H100's 81,559, 79.25 of an A100's 81,920.
    for name, seen in (("L4", 22.04), ("H100", 79.18), ("A100-80", 79.25)):
        assert seen * 0.98 < named(name).total / GIB <= seen + 0.01


def test_nvidia_smis_answer_is_read() -> None:
    gpus = parsed("0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA A100-SXM4-80GB, 81920\n")
    assert [(gpu.index, gpu.name, gpu.memory) for gpu in gpus] == [
        (0, "NVIDIA H100 80GB HBM3", 81559 * MIB),
        (1, "NVIDIA A100-SXM4-80GB", 81920 * MIB),
    ]
    assert [gpu.is_a100 for gpu in gpus] == [False, True]


@pytest.mark.parametrize("output", ["", "No devices were found\n", "0, NVIDIA GB10, [N/A]\n"])
def test_an_answer_without_memory_is_an_error(output: str) -> None:
    with pytest.raises(LaunchError, match="names no GPU with memory of its own"):
        parsed(output)


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_this_machines_gpus_are_asked_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'test "$1" = --query-gpu=index,name,memory.total && echo "0, NVIDIA L4, 23034"\n', monkeypatch)
    assert [(gpu.name, gpu.memory) for gpu in gpus_here()] == [("NVIDIA L4", 23034 * MIB)]


def test_a_driver_that_does_not_answer_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "NVIDIA-SMI has failed because it couldn\'t communicate"; exit 9\n', monkeypatch)
    with pytest.raises(LaunchError, match=r"status 9: NVIDIA-SMI has failed"):
        gpus_here()


def test_a_machine_without_one_is_told_how_to_name_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"no nvidia-smi here.*--gpu H100, --gpu 80GiB"):
        gpus_here()
