"""Runs examples/cloud_failover.py in a separate process, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NO_SERVER = "http://127.0.0.1:9"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the example in a separate process without any other settings."""
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "VLLM_URLS": NO_SERVER,
        "OLLAMA_HOST": NO_SERVER,
    }
    command = [sys.executable, str(ROOT / "examples" / "cloud_failover.py"), *arguments]
    return subprocess.run(command, env={**settings, **environ}, capture_output=True, text=True, timeout=60, check=False)


def test_example_names_the_missing_variable_and_the_local_mode_when_no_key_is_set() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "the key of deepseek is missing: set DEEPSEEK_API_KEY" in done.stderr
    assert "cloud_failover.py --local" in done.stderr
    assert "Traceback" not in done.stderr


def test_example_uses_its_own_fallback_with_local() -> None:
    done = run("--local")
    assert done.stdout == "exaone3.5:7.8b: Hello from the fallback!\nanswered by local\n"
    assert "failover model='exaone3.5:7.8b' of='exaone3.5:7.8b' to='local:hello'" in done.stderr
    assert done.returncode == 0


def test_example_lists_the_causes_when_no_server_answers() -> None:
    done = run(FAILOVER="ollama:exaone3.5:7.8b")
    assert (done.returncode, done.stdout) == (1, "")
    last, *_ = done.stderr.splitlines()[::-1]
    assert last.startswith(f"The fallback ollama:exaone3.5:7.8b failed too: Failed to connect to Ollama at {NO_SERVER}")
    assert "No server answered." in done.stderr
    assert "Traceback" not in done.stderr
