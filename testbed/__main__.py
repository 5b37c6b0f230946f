"""`python -m testbed prepare` and `python -m testbed demo`."""

from __future__ import annotations

import argparse
import signal
import sys

from testbed import demo, environment, models
from testbed.paths import HOME, TestbedError
from vllm_launch import ServerError


def main() -> int:
    """Run the command. Returns the exit status: 0 for success."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description="Real vLLM servers with small models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="install vLLM and make the model folders if they are missing")
    commands.add_parser("demo", help="start two servers and run examples/quickstart.py against them")
    arguments = parser.parse_args()
    # Exit normally, so that the started servers are stopped.
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
        print("\nStopped. No server is running.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
