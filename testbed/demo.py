"""The demo: one script that uses the ollama API runs with two vLLM servers, then with BACKEND_MODE=ollama.

Only the environment changes between the runs, not the script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from testbed import environment, metrics, models, servers
from testbed.paths import HOME, ROOT, TestbedError
from vllm_launch import ServerProcess, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCRIPT = "examples/quickstart.py"
_LOGS = HOME / "logs" / "demo"
# The script uses the names of the production models; these small models answer instead.
_MODEL_MAP = {"exaone3.5:7.8b": "smol", "daynice/kure-v1": "minilm"}


def main() -> int:
    """Run the demo. Returns the exit status: 0 if vLLM answered every call and both servers are stopped."""
    began = time.monotonic()
    console = Console(highlight=False)
    _head(console, "Two vLLM servers")
    python = environment.prepare()
    models.prepare(python, (models.SMOLLM2, models.MINILM))
    chat_port, embed_port = free_ports(2)
    wanted = [servers.chat(chat_port), servers.embed(embed_port)]
    with servers.serving(wanted, python, _LOGS) as processes:
        urls = ",".join(process.url for process in processes)
        _run(console, {"BACKEND_MODE": "vllm", "VLLM_URLS": urls, "VLLM_MODEL_MAP": json.dumps(_MODEL_MAP)}, check=True)
        summary = _summary(processes)
    _run(console, {"BACKEND_MODE": "ollama"}, check=False)
    _head(console, "Requests that vLLM answered under BACKEND_MODE=vllm")
    console.print(summary)
    running = [process.server.name for process in processes if process.group_runs()]
    console.print(f"Still running: {', '.join(running)}" if running else "Both servers are stopped.")
    console.print(
        f"[dim]{time.monotonic() - began:.0f} s in total; the servers' logs are in {_LOGS}[/]", soft_wrap=True
    )
    return 1 if running else 0


def _run(console: Console, variables: Mapping[str, str], *, check: bool) -> None:
    _head(console, f"python {_SCRIPT}")
    for name, value in variables.items():
        console.print(f"[cyan]{name}[/]={value}", soft_wrap=True)
    # The script writes directly to the terminal, so that its streams are visible.
    ended = subprocess.run([sys.executable, _SCRIPT], cwd=ROOT, env=_environment(variables), check=False)
    if not ended.returncode:
        return
    if check:
        raise TestbedError(f"{_SCRIPT} ended with status {ended.returncode} under BACKEND_MODE=vllm; see above.")
    console.print(
        f"\nThis run used the ollama client with {os.environ.get('OLLAMA_HOST') or '127.0.0.1:11434'}: with "
        "BACKEND_MODE=ollama the same script behaves as before. It needs an Ollama that has these models.",
        style="dim",
        soft_wrap=True,
    )


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # The user's own configuration must not change the demo.
    ours = ("BACKEND_MODE", "VLLM_", "OLLAMA_COMPAT_CONFIG", "CHAT_MODEL", "EMBED_MODEL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # The servers are on this machine, so no proxy is used.
    return {**inherited, "NO_PROXY": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1", **variables}


def _summary(processes: list[ServerProcess]) -> Table:
    table = Table("vLLM server", "model", "path", "requests", "seconds")
    for process in processes:
        for path, requests, seconds in metrics.answered(process.url):
            server = process.server
            table.add_row(f"{server.name}, :{server.port}", server.served[0], path, str(requests), f"{seconds:.1f}")
    return table


def _head(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left")
