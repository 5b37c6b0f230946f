"""The GPUs of this machine or named ones, and their memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtimes.base import LaunchError

GIB = 2**30
MIB = 2**20

CUDA_SHARE = 0.98
"""The share of nvidia-smi's memory that CUDA provides to programs. vLLM's logs: 97.98 % (L4) to 99.4 % (H100)."""

NAMED = {
    "T4": 15360,
    "A10": 23028,
    "A10G": 23028,
    "L4": 23034,
    "RTX 3090": 24576,
    "RTX 4090": 24564,
    "RTX 5090": 32607,
    "V100-32": 32768,
    "A100-40": 40960,
    "L40S": 46068,
    "A40": 46068,
    "RTX A6000": 49140,
    "RTX 6000 ADA": 49140,
    "A100-80": 81920,
    "H100": 81559,
    "RTX PRO 6000": 97887,
    "H200": 143771,
    "B200": 183359,
}
"""The `memory.total` of nvidia-smi in MiB, by the common name of a card."""

_QUERY = ("--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m)", re.I)
_COUNTED = re.compile(r"(\d+)\s*x\s*(\S.*)", re.I)
_UNITS = {"g": GIB, "gb": GIB, "gib": GIB, "m": MIB, "mb": MIB, "mib": MIB}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory: int
    """Bytes in nvidia-smi."""

    @property
    def total(self) -> int:
        """Bytes that CUDA provides to programs: the base of vLLM's `gpu_memory_utilization`."""
        return int(self.memory * CUDA_SHARE)

    @property
    def is_a100(self) -> bool:
        """Whether vLLM treats the GPU as an A100, which has different defaults."""
        return "a100" in self.name.lower()


def named(text: str, index: int = 0) -> Gpu:
    """A GPU by its name or its memory: `H100`, `RTX 4090`, `80GiB` (GB means GiB, as in the names of cards).

    Raises `LaunchError` for an unknown GPU.
    """
    size = _SIZE.fullmatch(text.strip())
    if size:
        memory = int(float(size[1]) * _UNITS[size[2].lower()])
        if memory <= 0:
            raise LaunchError(f"A GPU of {text.strip()!r} has no memory.")
        return Gpu(index, text.strip(), memory)
    wanted = _plain(text)
    for name, mebibytes in NAMED.items():
        if _plain(name) == wanted:
            return Gpu(index, name, mebibytes * MIB)
    raise LaunchError(f"Unknown GPU {text!r}. Pass its memory, such as 80GiB, or one of: {', '.join(NAMED)}.")


def cards(texts: Sequence[str]) -> tuple[Gpu, ...]:
    """Several GPUs, each in the notation of `named`; `2xH100` is two GPUs. Raises `LaunchError` for an unknown GPU."""
    found: list[Gpu] = []
    for text in texts:
        counted = _COUNTED.fullmatch(text.strip())
        count, name = (int(counted[1]), counted[2]) if counted else (1, text)
        for _ in range(count):
            found.append(named(name, len(found)))
    return tuple(found)


def gpus_here() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine. Raises `LaunchError` without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise LaunchError(
            "nvidia-smi is not installed, so this machine has no NVIDIA GPU to plan for. "
            "To plan for another machine, pass GPUs by name or memory: --gpu H100, --gpu 80GiB."
        )
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"nvidia-smi did not list the GPUs: {error}") from error
    if done.returncode:
        output = (done.stdout + done.stderr).strip().splitlines()
        raise LaunchError(f"nvidia-smi exited with status {done.returncode}: {output[0] if output else 'no message'}")
    return parsed(done.stdout)


def parsed(output: str) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's output. Raises `LaunchError` without any."""
    gpus = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[0].isdigit() and cells[2].isdigit():
            gpus.append(Gpu(int(cells[0]), cells[1], int(cells[2]) * MIB))
    if not gpus:
        raise LaunchError(f"nvidia-smi lists no GPU with memory. Its output: {output.strip() or 'empty'}")
    return tuple(gpus)


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|[\s_-]", "", name.lower()).removesuffix("gb")
