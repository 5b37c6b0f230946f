"""Starts vLLM servers and stops them again.

`servers` says what a server is, `process` runs servers as child processes, `log` reads what they write.
"""

from vllm_launch.process import Progress, ServerError, ServerProcess, free_ports, running, stop_all
from vllm_launch.servers import Server

__all__ = ["Progress", "Server", "ServerError", "ServerProcess", "free_ports", "running", "stop_all"]
