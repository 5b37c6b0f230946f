"""`vllm-launch --runtime docker` as a user gives it, in a folder with a file of servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_launch.servers import Server

from .helpers import HERE

_COMMAND = (sys.executable, "-m", "vllm_launch")


class Command:
    """The command, with a file of these servers and a state folder of its own."""

    def __init__(self, folder: Path, *servers: Server, engine: str | None = None) -> None:
        """`engine`: which one it speaks to, as `DOCKER_HOST` says it."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._environment = {
            "PYTHONPATH": str(HERE.parent.parent),
            "VLLM_LAUNCH_STATE": str(folder / "state"),
            **({"DOCKER_HOST": engine} if engine else {}),
        }
        self.describe(*servers)

    def describe(self, *servers: Server) -> None:
        """Write the file anew."""
        (self.folder / "vllm-launch.toml").write_text("\n".join(map(_table, servers)))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it as a program of its own, and go on; what it prints and says of errors comes by one pipe."""
        return subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=self.folder,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As of a shell's foreground, whatever these tests are run by.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run it to its end with this exit status; what it printed and said of errors."""
        with self.start(*arguments) as process:
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == status, f"{' '.join(arguments)}: {process.returncode}\n{printed}"
        return printed

    def status(self, server: Server) -> dict[str, Any]:
        """What `status --json` says of the server; empty where it is not there."""
        with self.start("status", "--json", "--runtime", "docker") as process:
            printed, _ = process.communicate(timeout=60)
        return next((row for row in json.loads(printed) if row["name"] == server.name), {})


def _table(server: Server) -> str:
    described = server.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    return "\n".join(
        [f"[servers.{server.name}]", *(f"{key} = {_value(value)}" for key, value in described.items()), ""]
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)
