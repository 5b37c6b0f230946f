"""Real vLLM servers with small real models, on any Linux machine, with no GPU.

`environment` installs vLLM, `models` prepares model folders, `servers` defines servers on them and runs them, `router`
puts vLLM's router before them, and `demo` shows the whole. `python -m testbed` is the way in. Everything lies in
`.testbed/` (or $TESTBED_DIR), and can be deleted.
"""
