"""Where the test bed keeps its things, and the error it reports in plain words."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Several clones can share the 7 GB: TESTBED_DIR=/somewhere/shared.
HOME = Path(os.environ.get("TESTBED_DIR") or ROOT / ".testbed").resolve()
HERE = Path(__file__).resolve().parent


class TestbedError(RuntimeError):
    """The test bed can't be set up. The message says what is wrong and what to do about it."""

    __test__ = False  # pytest takes every class named Test… for a test case


def megabytes(path: Path) -> str:
    """The size of a file or a folder as people say it: `538 MB`, `6.4 GB`."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.0f} MB"
