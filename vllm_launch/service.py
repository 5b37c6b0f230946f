"""What a service is told so that its calls go to these servers: the variables of `ollama_compat`. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from .runtimes.base import LaunchError
from .servers import Server

Format: TypeAlias = Literal["shell", "dotenv", "json"]


def variables(servers: Sequence[Server], model_map: Mapping[str, str]) -> dict[str, str]:
    """`BACKEND_MODE`, `VLLM_URLS` and `VLLM_MODEL_MAP` for a service on this machine.

    Of `model_map` (Ollama name -> served name), what these servers serve. Raises `LaunchError` where there is nothing
    to name, or where two servers ask for different keys: a client has one for all of its vLLM servers.
    """
    if not servers:
        raise LaunchError("No server runs. Start some (vllm-launch up), or name those that are meant.")
    keys = {server.api_key_file for server in servers}
    if len(keys) > 1:
        raise LaunchError("These servers have different api_key_files; a service sends one key to all of its servers.")
    served = {name for server in servers for name in server.served}
    known = {name: target for name, target in model_map.items() if target in served}
    return {
        "BACKEND_MODE": "vllm",
        "VLLM_URLS": ",".join(server.base_url for server in servers),
        **({"VLLM_MODEL_MAP": json.dumps(known, ensure_ascii=False)} if known else {}),
    }


def written(servers: Sequence[Server], variables: Mapping[str, str], form: Format) -> str:
    """The variables for a shell (`eval "$(vllm-launch env)"`), for an env file, or as JSON. No key is printed."""
    if form == "json":
        return json.dumps(variables, indent=2, ensure_ascii=False)
    export = "export " if form == "shell" else ""
    quote = shlex.quote if form == "shell" else str
    lines = [f"{export}{name}={quote(value)}" for name, value in variables.items()]
    key = next((server.api_key_file for server in servers if server.api_key_file is not None), None)
    if key is not None and form == "shell":
        lines.append(f'export VLLM_API_KEY="$(cat {shlex.quote(str(key))})"')
    elif key is not None:
        lines.append(f"# VLLM_API_KEY: what is in {key}")
    return "\n".join(lines)
