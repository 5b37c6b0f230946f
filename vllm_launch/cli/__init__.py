"""The command `vllm-launch`. A subcommand reads the configuration (config.py), calls one function, prints the result.

app.py        the application, its exit statuses, and shared options
lifecycle.py  up, down, status, logs, rollback
described.py  env, check, plan, compose, k8s: commands that need only the descriptions
watching.py   top
"""

from .app import application, main

__all__ = ["application", "main"]
