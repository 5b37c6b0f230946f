"""Which servers are meant: those of a TOML file, or the presets.

    runtime = "process"            # or "docker", the default
    python = "/opt/vllm/bin/python"  # the Python that has vLLM, for runtime "process"

    [servers.vllm-llm]             # a preset's name: the preset, with what stands here instead
    max_model_len = 16384

    [servers.coder]                # any other name: a server of one's own
    model = "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8"
    port = 8003

    [servers.second-llm]
    preset = "vllm-llm"
    port = 8011
    gpus = [1]

The keys of a server are the fields of `servers.Server`. A relative `api_key_file` is beside the TOML file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from .presets import PRESETS
from .runtimes.base import LaunchError, RuntimeName
from .servers import Server

VARIABLE = "VLLM_LAUNCH_CONFIG"
DEFAULT_FILE = "vllm-launch.toml"
"""Read from the working folder where neither a file nor the variable is given."""
_TOP = ("runtime", "python", "servers")


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    runtime: RuntimeName | None = None
    python: str | None = None
    path: Path | None = None
    """The file; None where there is none."""

    def named(self, names: Sequence[str]) -> list[Server]:
        """The servers of these names, the file's before the presets. Raises `LaunchError` for a name of neither."""
        known = {**PRESETS, **self.servers}
        for name in names:
            if name not in known:
                raise LaunchError(f"There is no server {name!r}{_nearest(name, known)}. Known: {', '.join(known)}.")
        return [known[name] for name in dict.fromkeys(names)]


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path`, the file that `VLLM_LAUNCH_CONFIG` names, or `./vllm-launch.toml`; none of them: an empty `Config`.

    Raises `LaunchError` that names the file, the key, and what it may hold.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ[VARIABLE]) if environ.get(VARIABLE, "").strip() else None)
    file = named or Path(DEFAULT_FILE)
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if named is None:
            return Config()
        raise LaunchError(f"There is no file {file}.") from None
    except OSError as problem:
        raise LaunchError(f"{file} can't be read: {problem.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise LaunchError(f"{file} is no valid TOML: {problem}") from None
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
    return Config(servers, runtime, python, file)


def _server(file: Path, name: str, table: Mapping[str, object]) -> Server:
    place = f"{file}, servers.{name}"
    given = dict(table)
    preset = given.pop("preset", name)
    if preset not in PRESETS and "preset" in table:
        raise LaunchError(f"{place}: there is no preset {preset!r}. Known: {', '.join(PRESETS)}.")
    base = PRESETS[str(preset)].model_dump() if preset in PRESETS else {}
    try:
        server = Server.model_validate({**base, **given, "name": name})
    except ValidationError as problem:
        raise LaunchError("\n".join(_told(place, error) for error in problem.errors(include_url=False))) from None
    if server.api_key_file is None:
        return server
    key_file = file.absolute().parent / server.api_key_file.expanduser()
    return server.model_copy(update={"api_key_file": key_file})


def _told(place: str, error: object) -> str:
    assert isinstance(error, dict)
    key = ".".join(str(part) for part in error["loc"][:1])
    match error["type"]:
        case "missing":
            return f"{place}: {key} is missing."
        case "extra_forbidden":
            fields = [name for name in Server.model_fields if name != "name"]
            near = _nearest(key.replace("-", "_"), fields)
            return f"{place}: there is no key {key!r}{near}. Other flags of vLLM's go into extra_args."
        case _:
            reason = error["msg"].removeprefix("Value error, ")
            return (
                f"{place}{'.' + key if key else ''}: {reason} (it is {error['input']!r})."
                if key
                else f"{place}: {reason}."
            )


def _nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
