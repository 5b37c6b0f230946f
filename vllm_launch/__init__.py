"""Starts vLLM servers and stops them again.

`servers` says what a server is, `runtimes` has the ways to run one, and the command `vllm-launch` (`up`, `cli`) uses
both. What programs import is here: servers as child processes, for as long as the program needs them.
"""

from .runtimes.children import Progress, ServerError, ServerProcess, running, stop_all
from .runtimes.ports import free_ports
from .servers import Server

__all__ = ["Progress", "Server", "ServerError", "ServerProcess", "free_ports", "running", "stop_all"]
