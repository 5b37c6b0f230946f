"""Real vLLM servers with small real models on a Linux machine without a GPU, for the demo and the tests.

`environment` installs vLLM, `models` makes model folders, `servers` and `router` run servers, `demo` shows them; the
command is `python -m testbed`. All data is in `.testbed/` (or $TESTBED_DIR) and can be deleted.
"""
