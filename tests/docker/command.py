"""Runs the `vllm-launch` command in a folder with a configuration file."""

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

TIMEOUT_S = 300.0
"""Limit of a command. It is reached only if a test fails."""
_COMMAND = (sys.executable, "-m", "vllm_launch")


class Command:
    """The command with a configuration file of some servers and its own state folder."""

    def __init__(self, folder: Path, *servers: Server, engine: str | None = None) -> None:
        """`engine`: the Docker engine, as in `DOCKER_HOST`."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._environment = {
            "PYTHONPATH": str(HERE.parent.parent),
            "VLLM_LAUNCH_STATE": str(folder / "state"),
            **({"DOCKER_HOST": engine} if engine else {}),
        }
        self.describe(*servers)

    def describe(self, *servers: Server) -> None:
        """Write the configuration file again."""
        (self.folder / "vllm-launch.toml").write_text("\n".join(map(_table, servers)))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command without waiting for it. Standard output and standard error share one pipe."""
        return subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=self.folder,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As in the foreground of a shell, even if the tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run the command until it ends with this exit status. Returns its output."""
        with self.start(*arguments) as process:
            printed, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == status, f"{' '.join(arguments)}: {process.returncode}\n{printed}"
        return printed

    def status(self, server: Server) -> dict[str, Any]:
        """The row of the server in `status --json`; empty without one."""
        with self.start("status", "--json", "--runtime", "docker") as process:
            printed, _ = process.communicate(timeout=TIMEOUT_S)
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
