"""`python -m ollama_compat health`: how the servers are, for people and for container health checks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

from .client import Client
from .mapping.errors import printable
from .settings import SettingsError
from .telemetry.health import Health

EXIT_UNHEALTHY = 1
EXIT_SETTINGS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status: 0 healthy or degraded, 1 unhealthy, 2 wrong settings or a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m ollama_compat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    health = commands.add_parser("health", help="ask every server how it is; exit status 1 where none is healthy")
    health.add_argument("--json", action="store_true", help="print what health() returns")
    health.add_argument("--timeout", type=_seconds, default=2.0, metavar="SECONDS", help="for all servers (default: 2)")
    health.add_argument("--strict", action="store_true", help="exit status 1 also where it is degraded")
    options = parser.parse_args(arguments)
    try:
        with Client() as client:
            found = client.health(options.timeout)
    except SettingsError as problem:
        print(problem, file=sys.stderr)
        return EXIT_SETTINGS
    _print(json.dumps(found, indent=2) if options.json else _text(found))
    well = ("healthy",) if options.strict else ("healthy", "degraded")
    return 0 if found["status"] in well else EXIT_UNHEALTHY


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _text(found: Health) -> str:
    lines = [f"{found['status']}  (BACKEND_MODE={found['backend_mode']}, circuit breaker {found['circuit_breaker']})"]
    for server in found["servers"]:
        told = server["error"] or "serves " + (", ".join(server["models"]) or "nothing that it tells")
        lines.append(f"  {server['url']}  {server['status']}: {printable(told)}")
    return "\n".join(lines)


def _print(text: str) -> None:
    """Print what a terminal that is not UTF-8 can show of it."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
