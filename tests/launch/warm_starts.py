"""Starts vLLM's API server as a fork of a process that has imported vLLM. Imports take most of the time of a start.

    <a Python that has vLLM> warm_starts.py

The first line of standard output is `ready`. Then each line of standard input is a start, `{"arguments": […], "log":
"<file>"}`, and each line of standard output its result as in `subprocess`: the exit status, or a negative signal.
"""

import json
import os
import runpy
import sys

MODULE = "vllm.entrypoints.openai.api_server"


def main():
    """Import vLLM, then start the requested servers one after another."""
    for module in (MODULE, "vllm.entrypoints.launchers.launcher", "vllm.v1.engine.async_llm"):
        __import__(module)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            start(**request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def start(arguments, log):
    """Run the server in this process, with its output in the log file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["vllm", *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
