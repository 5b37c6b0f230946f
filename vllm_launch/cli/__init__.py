"""The command `vllm-launch`: every command reads what is meant (config.py), calls one function, and prints its result.

app.py        the application, its exit statuses, and what all commands share
lifecycle.py  up, down, status, logs, rollback
described.py  env, check, plan, compose, k8s: what follows from the descriptions alone
watching.py   top
"""

from .app import application, main

__all__ = ["application", "main"]
