"""Runs the unit and HTTP tests on every Python from 3.11 on that is installed, except the one that runs this module.

    python -m tests.pythons [VERSION ...]

Each version has its own environment in .venvs/VERSION. A version that is not installed is skipped, with a line that
says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
SUITES = ("tests/unit", "tests/http")
OPTIONS = ("--quiet", "--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal", "-p", "no:cacheprovider")
UV = str(Path(sys.executable).with_name("uv"))


def interpreter(version: str) -> str | None:
    """The path of a working Python of this minor version; None if there is none."""
    candidates = [shutil.which(f"python{version}")]
    # pyenv's shims on PATH fail for a version that is not selected; the versions themselves work.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    candidates += [_known_to_uv(version)]
    return next((path for path in candidates if path and _runs(path, version)), None)


def _known_to_uv(version: str) -> str | None:
    find = [UV, "python", "find", "--quiet", "--no-python-downloads", "--no-project", version]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _runs(python: str, version: str) -> bool:
    program = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return False
    return done.stdout.strip() == version


def run(version: str, python: str) -> bool:
    """Installs the project for one version and runs the suites; returns whether all tests passed."""
    folder = ROOT / ".venvs" / version
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    commands = [
        *([] if (folder / "bin" / "python").exists() else [[UV, "venv", "--quiet", "--python", python, str(folder)]]),
        [UV, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--editable", ".[dev]"],
        [str(folder / "bin" / "python"), "-m", "pytest", *OPTIONS, *SUITES],
    ]
    return all(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0 for command in commands)


def main(versions: list[str]) -> int:
    """Runs each version in turn; returns the exit status."""
    failed = []
    for version in versions:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            print(f"Python {version}: `make unit` runs the tests on it", flush=True)
        elif (python := interpreter(version)) is None:
            print(f"Python {version}: skipped, not installed (PATH, pyenv, uv)", flush=True)
        else:
            print(f"Python {version}: {python}", flush=True)
            failed += [] if run(version, python) else [version]
    if failed:
        print(f"Failed on Python {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
