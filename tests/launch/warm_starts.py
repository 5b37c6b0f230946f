"""Starts vLLM's API server without its imports, which take most of a start that fails: each start is a fork of this.

    <a Python that has vLLM> warm_starts.py

A line of standard input is a start, `{"arguments": […], "log": "<file>"}`; a line of standard output is how it ended,
as `subprocess` counts: the exit status, or a signal below zero. The first line says that all is imported.
"""

import json
import os
import runpy
import sys

MODULE = "vllm.entrypoints.openai.api_server"


def main():
    """Import what every start needs, then start what is asked for, one after another."""
    for module in (MODULE, "vllm.entrypoints.launchers.launcher", "vllm.v1.engine.async_llm"):
        __import__(module)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            start(**asked)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def start(arguments, log):
    """Become the server: its arguments, and its output in a file."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.argv = ["vllm", *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
