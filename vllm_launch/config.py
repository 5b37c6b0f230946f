"""Loads the descriptions of servers from a TOML file.

    runtime = "process"            # or "docker", the default
    python = "/opt/vllm/bin/python"  # the Python that has vLLM, for runtime "process"

    [servers.vllm-llm]             # the name of a preset: its values, overridden by these keys
    max_model_len = 16384

    [servers.coder]                # any other name: a new server
    model = "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8"
    port = 8003

    [servers.second-llm]
    preset = "vllm-llm"
    port = 8011
    gpus = [1]

The keys of a server are the fields of `servers.Server`. Variables, volumes and LoRA adapters are added to those of the
preset. A new server starts with the volume for models. Relative paths start at the folder of the TOML file.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .presets import MODEL_CACHE, PRESETS
from .runtimes.base import LaunchError, RuntimeName
from .servers import Server, mounted_at

VARIABLE = "VLLM_LAUNCH_CONFIG"
DEFAULT_FILE = "vllm-launch.toml"
"""Read from the working folder if neither a file nor the variable is set."""
_TOP = ("runtime", "python", "servers")
_NOT_QUOTED = ("env", "extra_args")
"""Keys whose values an error message does not repeat: they may contain a secret by mistake."""
_JINJA = re.compile(r"[{}\n]")
"""Distinguishes a template from the path of a template (vLLM 0.32, vllm/renderers/chat_utils.py)."""


@dataclass(frozen=True, slots=True)
class Config:
    """The content of a configuration file."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    runtime: RuntimeName | None = None
    python: str | None = None
    path: Path | None = None
    """The file; None without a file."""

    def named(self, names: Sequence[str]) -> list[Server]:
        """The servers of these names. The file takes precedence over the presets.

        Raises `LaunchError` for a name that is in neither.
        """
        known = {**PRESETS, **self.servers}
        for name in names:
            if name not in known:
                raise LaunchError(f"There is no server {name!r}{_nearest(name, known)}. Known: {', '.join(known)}.")
        return [known[name] for name in dict.fromkeys(names)]


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Load `path`, the file in `VLLM_LAUNCH_CONFIG`, or `./vllm-launch.toml`. Without any of them: an empty `Config`.

    Raises `LaunchError` with the file, the key, and the allowed values.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(os.path.expanduser(environ[VARIABLE])) if environ.get(VARIABLE, "").strip() else None)
    file = named or Path(DEFAULT_FILE)
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if named is None:
            return Config()
        raise LaunchError(f"There is no file {file}.") from None
    except OSError as problem:
        raise LaunchError(f"{file} cannot be read: {problem.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise LaunchError(f"{file} is not valid TOML: {problem}") from None
    return _config(file, values)


def _config(file: Path, values: Mapping[str, object]) -> Config:
    for key in values:
        if key not in _TOP:
            raise LaunchError(f"{file}: there is no key {key!r}{_nearest(key, _TOP)}. Known: {', '.join(_TOP)}.")
    runtime, python, tables = values.get("runtime"), values.get("python"), values.get("servers", {})
    if runtime not in (None, "docker", "process"):
        raise LaunchError(f"{file}: runtime is {runtime!r}; it may be 'docker' or 'process'.")
    if not isinstance(python, str | None):
        raise LaunchError(f"{file}: python is {python!r}; it must be the path of a Python.")
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise LaunchError(f"{file}: servers are tables, one for each: [servers.NAME].")
    servers = {name: _server(file, name, table) for name, table in tables.items()}
    # A value without a slash is a command, which is found on the PATH.
    return Config(servers, runtime, python and (_resolved(file, python) if _is_path(python) else python), file)


def _server(file: Path, name: str, table: Mapping[str, object]) -> Server:
    place = f"{file}, servers.{name}"
    if "name" in table:
        raise LaunchError(f"{place}: remove the key name; the heading [servers.{name}] sets the name.")
    given = dict(table)
    preset = given.pop("preset", name)
    if preset not in [*PRESETS] and "preset" in table:
        raise LaunchError(f"{place}: there is no preset {preset!r}. Known: {', '.join(PRESETS)}.")
    base = PRESETS[str(preset)].model_dump() if preset in PRESETS else {"volumes": MODEL_CACHE}
    try:
        server = Server.model_validate({**_merged(base, given), "name": name})
    except ValidationError as problem:
        raise LaunchError("\n".join(_message(place, error) for error in problem.errors(include_url=False))) from None
    return server.model_copy(update=_located(file, server))


def _merged(base: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """The base with the given values. Tables are merged key by key."""
    merged = {**base, **given}
    for key, old in base.items():
        new = given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            # Only one volume can be mounted at a path.
            targets = [mounted_at(str(each)) for each in new.values()] if key == "volumes" else []
            kept = {name: value for name, value in old.items() if mounted_at(str(value)) not in targets}
            merged[key] = {**kept, **new}
    return merged


def _located(file: Path, server: Server) -> dict[str, object]:
    """The fields that are paths, resolved from the folder of the file. A model `org/name` is an id on the hub."""
    found: dict[str, object] = {"model": _model(file, server.model)}
    found["lora_modules"] = {name: _model(file, path) for name, path in server.lora_modules.items()}
    if server.chat_template is not None and not _JINJA.search(server.chat_template):
        found["chat_template"] = _resolved(file, server.chat_template)
    if server.api_key_file is not None:
        found["api_key_file"] = Path(_resolved(file, str(server.api_key_file)))
    return found


def _model(file: Path, model: str) -> str:
    return _resolved(file, model) if model.startswith(("./", "../", "~")) else model


def _is_path(text: str) -> bool:
    return "/" in text or text.startswith("~")


def _resolved(file: Path, path: str) -> str:
    """The path, resolved from the folder of the file."""
    return str(file.absolute().parent / os.path.expanduser(path))


def _message(place: str, error: ErrorDetails) -> str:
    """The error message for an invalid key."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    key = location[0] if location else ""
    whole = ".".join([place, *location])
    match error["type"]:
        case "missing":
            return f"{place}: {key} is missing."
        case "extra_forbidden":
            fields = [name for name in Server.model_fields if name != "name"]
            near = _nearest(key.replace("-", "_"), fields)
            return f"{place}: there is no key {key!r}{near}. Put other flags of vLLM into extra_args."
        case _:
            reason = error["msg"].removeprefix("Value error, ")
            value = f" (it is {error['input']!r})" if key and key not in _NOT_QUOTED else ""
            return f"{whole}: {reason}{value}."


def _nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
