"""`python -m ollama_compat health`: check the health of all servers, for operators and for container health checks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

from .client import Client
from .mapping.text import printable
from .servers.health import Health
from .settings import SettingsError

EXIT_UNHEALTHY = 1
EXIT_SETTINGS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    0: healthy or degraded. 1: unhealthy; with `--strict` also degraded. 2: invalid settings or command line.
    """
    parser = argparse.ArgumentParser(prog="python -m ollama_compat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    health = commands.add_parser("health", help="check all servers; exit status 1 if no server is healthy")
    health.add_argument("--json", action="store_true", help="print the result of health() as JSON")
    health.add_argument(
        "--timeout", type=_seconds, default=2.0, metavar="SECONDS", help="timeout of the whole check (default: 2)"
    )
    health.add_argument("--strict", action="store_true", help="exit status 1 also if the result is degraded")
    options = parser.parse_args(arguments)
    try:
        with Client() as client:
            result = client.health(options.timeout)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    _print(json.dumps(result, indent=2) if options.json else _text(result))
    accepted = ("healthy",) if options.strict else ("healthy", "degraded")
    return 0 if result["status"] in accepted else EXIT_UNHEALTHY


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _text(health: Health) -> str:
    lines = [
        f"{health['status']}  (BACKEND_MODE={health['backend_mode']}, circuit breaker {health['circuit_breaker']})"
    ]
    for server in health["servers"]:
        detail = server["error"] or "serves " + (", ".join(server["models"]) or "no models")
        lines.append(f"  {server['url']}  {server['status']}: {printable(detail)}")
    return "\n".join(lines)


def _print(text: str) -> None:
    """Print `text`. Characters that the encoding of the terminal does not have become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
