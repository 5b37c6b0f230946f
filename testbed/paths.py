"""The folders of the test bed, and its error."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Several clones of the repository can share the 7 GB with TESTBED_DIR.
HOME = Path(os.environ.get("TESTBED_DIR") or ROOT / ".testbed").resolve()
HERE = Path(__file__).resolve().parent


class TestbedError(RuntimeError):
    """The test bed cannot be set up. The message contains the cause and a remedy."""

    __test__ = False  # otherwise pytest collects a class whose name starts with Test


def megabytes(path: Path) -> str:
    """The size of a file or a folder, for example `538 MB` or `6.4 GB`."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.0f} MB"
