"""The example of failover, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The example in a process of its own, with no other settings."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VLLM_URLS": NOWHERE, "OLLAMA_HOST": NOWHERE}
    command = [sys.executable, str(ROOT / "examples" / "cloud_failover.py"), *arguments]
    return subprocess.run(command, env={**own, **environ}, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_key_it_says_which_variable_is_missing_and_what_works_without() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "the key of deepseek is missing: set DEEPSEEK_API_KEY" in done.stderr
    assert "cloud_failover.py --local" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_shows_a_stand_in_where_there_is_neither_server_nor_key() -> None:
    done = run("--local")
    assert done.stdout == "exaone3.5:7.8b: Hello from the stand-in!\nanswered by standin\n"
    assert "failover model='exaone3.5:7.8b' of='exaone3.5:7.8b' to='standin:hello'" in done.stderr
    assert done.returncode == 0


def test_it_says_who_could_not_answer() -> None:
    done = run(FAILOVER="ollama:exaone3.5:7.8b")
    assert (done.returncode, done.stdout) == (1, "")
    last, *_ = done.stderr.splitlines()[::-1]
    assert last.startswith(f"ollama:exaone3.5:7.8b stood in and failed too: Failed to connect to Ollama at {NOWHERE}")
    assert "Nobody could answer." in done.stderr
    assert "Traceback" not in done.stderr
