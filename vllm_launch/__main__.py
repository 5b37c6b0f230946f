"""`python -m vllm_launch`: the same as `vllm-launch`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; says what is missing where the extra `launch` is not installed."""
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
