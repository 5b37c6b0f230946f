"""The variables of `ollama_compat` that send a service's calls to these servers.

`eval "$(vllm-launch env)"` sets them in the shell in which `vllm-launch env` may run again. So the model map in the
environment does not hide the entries of the service's file, or of the defaults, for a server that runs now.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from ollama_compat.settings import CONFIG, SettingsError, load

from .container import READ_KEY
from .runtimes.base import LaunchError
from .servers import Server

Format: TypeAlias = Literal["shell", "dotenv", "json"]


_MAP, _KEY = "VLLM_MODEL_MAP", "VLLM_API_KEY"


def model_maps(environ: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The model maps (Ollama name -> served name) of the defaults, of the service's file, and of its environment.

    Raises `LaunchError` if one of them is invalid.
    """
    file = {CONFIG.name: environ.get(CONFIG.name, "")}
    try:
        return [
            load({"backend_mode": "vllm"}, given).vllm_model_map
            for given in ({}, file, {**file, _MAP: environ.get(_MAP, "")})
        ]
    except SettingsError as error:
        raise LaunchError(f"The settings of the service: {error}") from None


def variables(servers: Sequence[Server], model_maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """`BACKEND_MODE`, `VLLM_URLS` and `VLLM_MODEL_MAP` for a service on this machine.

    The map contains the entries that these servers serve; later maps take precedence. Raises `LaunchError` without
    servers, or if two servers require different keys: a client sends one key to all of its vLLM servers.
    """
    if not servers:
        raise LaunchError("No server runs. Start servers (vllm-launch up), or pass the names of servers.")
    keys = {server.api_key_file for server in servers}
    if len(keys) > 1:
        raise LaunchError("These servers have different api_key_files; a service sends one key to all of its servers.")
    served = {name for server in servers for name in server.served}
    known = {name: target for one in model_maps for name, target in one.items() if target in served}
    return {
        "BACKEND_MODE": "vllm",
        "VLLM_URLS": ",".join(server.base_url for server in servers),
        **({_MAP: json.dumps(known, ensure_ascii=False)} if known else {}),
    }


def written(servers: Sequence[Server], variables: Mapping[str, str], form: Format) -> str:
    """The variables for a shell (`eval "$(vllm-launch env)"`), for an env file, or as JSON. They contain no key.

    The shell form also unsets variables of an earlier call that no longer apply.
    """
    if form == "json":
        return json.dumps(variables, indent=2, ensure_ascii=False)
    key = next((server.api_key_file for server in servers if server.api_key_file is not None), None)
    if form == "dotenv":
        lines = [f"{name}={value}" for name, value in variables.items()]
        return "\n".join([*lines, f"# {_KEY}: the content of {key}"] if key else lines)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if _MAP not in variables:
        lines.append(f"unset {_MAP}")
    read = f"{READ_KEY}{shlex.quote(str(key))}"
    lines.append(f'export {_KEY}="$({read})"' if key else f"unset {_KEY}")
    return "\n".join(lines)
