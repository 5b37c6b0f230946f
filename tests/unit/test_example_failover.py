"""examples/cloud_failover.py, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the example in a separate process without other settings."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VLLM_URLS": NOWHERE, "OLLAMA_HOST": NOWHERE}
    command = [sys.executable, str(ROOT / "examples" / "cloud_failover.py"), *arguments]
    return subprocess.run(command, env={**own, **environ}, capture_output=True, text=True, timeout=120, check=False)


def test_example_names_the_missing_key_and_the_local_mode() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "the key of deepseek is missing: set DEEPSEEK_API_KEY" in done.stderr
    assert "cloud_failover.py --local" in done.stderr
    assert "Traceback" not in done.stderr


def test_example_runs_locally_with_a_substitute_provider() -> None:
    done = run("--local")
    assert done.stdout == "exaone3.5:7.8b: Hello from the stand-in!\nanswered by standin\n"
    assert "failover model='exaone3.5:7.8b' of='exaone3.5:7.8b' to='standin:hello'" in done.stderr
    assert done.returncode == 0


def test_example_reports_the_failed_fallback() -> None:
    done = run(FAILOVER="ollama:exaone3.5:7.8b")
    assert (done.returncode, done.stdout) == (1, "")
    last, *_ = done.stderr.splitlines()[::-1]
    assert last.startswith(f"ollama:exaone3.5:7.8b stood in and failed too: Failed to connect to Ollama at {NOWHERE}")
    assert "Nobody could answer." in done.stderr
    assert "Traceback" not in done.stderr
