"""The checks before a server starts as a process. vLLM itself would report these errors late or as a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..servers import MODULE, Server
from . import groups
from .base import LaunchError

VARIABLE = "VLLM_PYTHON"
_RUN = MODULE[-1].partition(".")[2].replace(".", "/") + ".py"
# Any folder named vllm counts as a package, so the program checks the file that is run. It does not import vLLM, which
# takes seconds.
_HAS_VLLM = f"""
import importlib.util, os, sys
found = importlib.util.find_spec("vllm")
places = found and found.submodule_search_locations or ()
sys.exit(not any(os.path.isfile(os.path.join(place, {_RUN!r})) for place in places))
"""
_TIMEOUT_S = 30.0


def check(server: Server, python: str | None) -> None:
    """Raise `LaunchError` if the server cannot start: no vLLM, a missing GPU, a missing file."""
    _require_linux()
    _require_files(server)
    find_python(python, groups.environment(server))
    if server.needs_gpu:
        _require_gpus(server, installed_gpus())


def find_python(chosen: str | None, env: Mapping[str, str]) -> str:
    """The Python with vLLM: the chosen one, `$VLLM_PYTHON`, that of `vllm` on the PATH, or this program's.

    A chosen Python must have vLLM. Raises `LaunchError` if no Python has it.
    """
    named = chosen or os.environ.get(VARIABLE)
    if named:
        source = "" if chosen else f" (set by {VARIABLE})"
        if shutil.which(named) is None:
            raise LaunchError(f"There is no Python {named!r}{source}.")
        if not _has_vllm(named, env):
            raise LaunchError(f"The Python {named!r}{source} has no vLLM. To install it: {named} -m pip install vllm")
        return named
    for python in (_python_of_vllm(), sys.executable):
        if python and _has_vllm(python, env):
            return python
    raise LaunchError(
        f"No Python with vLLM was found: there is no `vllm` on the PATH, and {sys.executable} has no vLLM. "
        f"Install it (pip install vllm), set a Python that has it (--python, or {VARIABLE}), "
        "or use containers (--runtime docker)."
    )


def installed_gpus() -> tuple[int, ...]:
    """The numbers of this machine's GPUs, from NVIDIA's driver; empty without a driver."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(line) for line in output.split() if line.isdigit())


def _require_linux() -> None:
    if not Path("/proc/self/stat").exists():
        raise LaunchError("The runtime `process` needs Linux (it uses /proc).")


def _require_files(server: Server) -> None:
    named = {"model": server.model, "chat_template": server.chat_template or ""}
    named |= {f"lora_modules.{name}": path for name, path in server.lora_modules.items()}
    for what, path in named.items():
        if path.startswith("/") and not Path(path).exists():
            raise LaunchError(
                f"The vLLM server {server.name!r} cannot be started: there is no {path} ({what}). A process uses "
                "the paths of this machine, not those of a container."
            )


def _require_gpus(server: Server, there: tuple[int, ...]) -> None:
    if not there:
        raise LaunchError(
            f"The vLLM server {server.name!r} needs GPUs, but nvidia-smi lists none on this machine. Without a GPU, "
            "use vllm-llm-cpu and vllm-embed-cpu. With a GPU, install its driver."
        )
    missing = [number for number in server.gpus if isinstance(number, int) and number not in there]
    if missing:
        raise LaunchError(
            f"The vLLM server {server.name!r} needs GPU {', '.join(map(str, missing))}; this machine has "
            f"{', '.join(map(str, there))}."
        )


def _python_of_vllm() -> str | None:
    """The Python of the script `vllm` on the PATH."""
    script = shutil.which("vllm")
    if script is None:
        return None
    with open(script, "rb") as file:
        first = file.readline().decode(errors="replace").strip()
    interpreter = first.removeprefix("#!").strip()
    if Path(interpreter).name.startswith("python") and Path(interpreter).exists():
        return interpreter
    sibling = Path(script).resolve().with_name("python")  # for a script that a shell starts
    return str(sibling) if sibling.exists() else None


def _has_vllm(python: str, env: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run([python, "-c", _HAS_VLLM], env=env, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
