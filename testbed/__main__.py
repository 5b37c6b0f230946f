"""`python -m testbed prepare` and `python -m testbed demo`."""

from __future__ import annotations

import argparse
import signal
import sys

from testbed import demo, environment, models
from testbed.paths import HOME, TestbedError
from vllm_launch import ServerError


def main() -> int:
    """Runs the command; the exit status is 0 if it went well."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description="Real vLLM servers with small models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="install vLLM and make the model folders, where they are missing")
    commands.add_parser("demo", help="start two servers and run examples/quickstart.py against them")
    arguments = parser.parse_args()
    # An ordinary exit, so that whatever was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if arguments.command == "demo":
            return demo.main()
        models.prepare(environment.prepare())
        print(f"The test bed is ready, in {HOME}.")
    except (TestbedError, ServerError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing is left running.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
