"""Starts and stops vLLM servers.

`servers` describes a server, `runtimes` runs it, and the command `vllm-launch` (`up`, `cli`) uses both. Programs import
the names below: they run servers as child processes that end with the program.
"""

from .runtimes.children import Progress, ServerError, ServerProcess, running, stop_all
from .runtimes.ports import free_ports
from .servers import Server

__all__ = ["Progress", "Server", "ServerError", "ServerProcess", "free_ports", "running", "stop_all"]
