"""What a type checker tells a service that changed its import: nothing new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVICE = Path(__file__).with_name("typed_service.py")


def test_a_typed_service_stays_typed(tmp_path: Path) -> None:
    strict = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(SERVICE)]
    done = subprocess.run(strict, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
