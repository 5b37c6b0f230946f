"""`python -m vllm_launch`: runs the command `vllm-launch`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command. Without the extra `launch`, print which package is missing and return 1."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "docker", "yaml"):
            raise
        print(f"vllm-launch needs {error.name}: pip install 'ollama-compat[launch]'", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
