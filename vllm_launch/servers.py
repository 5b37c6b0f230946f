"""The description of a vLLM server, in vLLM's terms, and the arguments that start it. Pure.

A `Server` is frozen and can be written to JSON and read back. Its fields form three groups: identity (name, port, …),
vLLM's command line (one entry of `FLAGS` each), and the container.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .errors import LaunchError

HOST = "127.0.0.1"
"""The default listen address: this machine only."""
VLLM_VERSION = "0.32.0"
"""The version of vLLM in the images below. All tests use it."""
IMAGE = f"vllm/vllm-openai:v{VLLM_VERSION}"
CPU_IMAGE = f"vllm/vllm-openai-cpu:v{VLLM_VERSION}"

ENTRYPOINT = ("python3", "-m", "vllm.entrypoints.openai.api_server")
"""The command in a container. Not the script `vllm`: in builds under another package name, it fails."""
MODULE = ENTRYPOINT[1:]

FLAGS: tuple[str, ...] = (
    "served_model_name",
    "revision",
    "runner",
    "dtype",
    "quantization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "enforce_eager",
    "shutdown_timeout",
    "enable_auto_tool_choice",
    "tool_call_parser",
    "reasoning_parser",
    "chat_template",
    "enable_lora",
    "max_lora_rank",
    "lora_modules",
)
"""The fields that are flags of vLLM: `max_model_len` is `--max-model-len`."""

_TOKEN = "HF_TOKEN in the environment of vllm-launch, which passes it to the server"
_USE_INSTEAD: Mapping[str, str] = {
    **{"--" + name.replace("_", "-"): name for name in ("host", "port", "model", *FLAGS)},
    "--enable-auto-tool-choice": "tool_call_parser",
    "--enable-lora": "lora_modules",
    "--device-memory-utilization": "gpu_memory_utilization",
    "-tp": "tensor_parallel_size",
    "-pp": "pipeline_parallel_size",
    "-q": "quantization",
    "--api-key": "api_key_file",
    "--hf-token": _TOKEN,
}
"""Flags that `extra_args` rejects, and their replacements. They would duplicate a field or contain a secret."""
_SECRETS: Mapping[str, str] = {
    "VLLM_API_KEY": "api_key_file",
    "HF_TOKEN": _TOKEN,
    "HUGGING_FACE_HUB_TOKEN": _TOKEN,
}
"""Variables that a description must not contain, and their replacements."""

GPU_SHARE = 0.92
"""vLLM's own `gpu_memory_utilization` (vLLM 0.32, vllm/config/cache.py)."""
TEARDOWN_S = 15
"""How long a server's processes may take to exit after the last answer (seconds)."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST_NAME = re.compile(r"(?!(?:.*\.)?\d+$)(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*", re.IGNORECASE)
_FLAG_NAME = re.compile(r"--?[^.=\s]*")
_KEY = re.compile(r"[!-~]+")
_SIZE = re.compile(r"[0-9]+[kmg]?b?", re.IGNORECASE)  # what Docker's SDK and Compose both read

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Value = Annotated[str, Field(coerce_numbers_to_str=True)]


class Server(BaseModel):
    """The description of one vLLM server. With None, vLLM decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    """The name of the server, its container, its log file and its service. A DNS label (RFC 1123)."""
    model: str
    """The id of a model on the Hugging Face hub, or an absolute folder (for a container: the path in the container)."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """The port of the API on this machine."""
    host: str = HOST
    """The listen address on this machine; `0.0.0.0`: all addresses."""

    served_model_name: tuple[str, ...] = ()
    """The model names that clients use. Without names: `model`."""
    revision: str | None = None
    runner: Literal["auto", "generate", "pooling"] | None = None
    """`pooling` for embedding models."""
    dtype: str | None = None
    quantization: str | None = None
    max_model_len: Count | Literal["auto"] | None = None
    """Tokens of prompt plus answer; `auto`: as many as the memory allows, up to the model's window."""
    max_num_seqs: Count | None = None
    """Maximum number of sequences in progress."""
    max_num_batched_tokens: Count | None = None
    gpu_memory_utilization: Share | None = None
    """The share of each GPU's memory that the server may use."""
    kv_cache_dtype: str | None = None
    kv_cache_memory_bytes: Count | None = None
    tensor_parallel_size: Count | None = None
    pipeline_parallel_size: Count | None = None
    enforce_eager: bool = False
    shutdown_timeout: Annotated[int, Field(ge=0)] | None = None
    """Seconds to finish running requests after a stop signal. vLLM's default is 0."""
    tool_call_parser: str | None = None
    """The parser of tool calls. It also sets `--enable-auto-tool-choice`."""
    reasoning_parser: str | None = None
    chat_template: str | None = None
    """A file (for a container: the path in the container)."""
    max_lora_rank: Count | None = None
    lora_modules: Mapping[str, str] = {}
    """LoRA adapters: served name -> folder or hub id."""
    extra_args: tuple[str, ...] = ()
    """Other arguments of vLLM's command line. Flags that have a key in this table are rejected."""
    env: Mapping[str, Value] = {}
    """Environment variables. No secrets: use `api_key_file`; `HF_TOKEN` is passed on from the environment."""
    api_key_file: Path | None = None
    """A file with the API key that clients must send, one word. It is read when the server starts and appears on no
    command line."""

    image: str = IMAGE
    """The image of the container."""
    entrypoint: tuple[str, ...] = ENTRYPOINT
    """The command in the container, before vLLM's arguments."""
    gpus: Literal["all"] | tuple[int, ...] = ()
    """The numbers of the server's GPUs."""
    shm_size: str = "8g"
    """Shared memory of the container. PyTorch's tensor-parallel workers communicate through it."""
    volumes: Mapping[str, str] = {}
    """Folder or named volume of this machine -> path in the container; the suffix `:ro` makes it read only."""

    @field_validator("name")
    @classmethod
    def _is_label(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("lower-case letters, digits and dashes, 63 at most")
        return name

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not (is_address(host) or _HOST_NAME.fullmatch(host)):
            raise ValueError(
                "must be an address or a name of this machine, such as 127.0.0.1, 0.0.0.0, ::1 or localhost"
            )
        return host

    @field_validator("extra_args")
    @classmethod
    def _are_other_flags(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        spelled = tuple(map(_as_vllm_reads_it, arguments))
        for argument in spelled:
            if instead := _use_instead(argument):
                raise ValueError(f"instead of {_FLAG_NAME.findall(argument)[0]}, use {instead}")
        return spelled

    @field_validator("env")
    @classmethod
    def _no_secret(cls, env: Mapping[str, str]) -> Mapping[str, str]:
        for name in _SECRETS.keys() & env.keys():
            raise ValueError(f"a description must not contain {name}: use {_SECRETS[name]}")
        return env

    @field_validator("gpus", mode="before")
    @classmethod
    def _are_gpus(cls, gpus: object) -> object:
        numbers = gpus if isinstance(gpus, list | tuple) else (None,)
        if gpus != "all" and not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError('must be "all" or a list of numbers, such as [0] or [0, 1]')
        return gpus

    @field_validator("shm_size")
    @classmethod
    def _is_size(cls, size: str) -> str:
        if not _SIZE.fullmatch(size):
            raise ValueError("must be a size, such as 8g or 512m")
        return size

    @model_validator(mode="after")
    def _enough_gpus(self) -> Self:
        needed = (self.tensor_parallel_size or 1) * (self.pipeline_parallel_size or 1)
        if isinstance(self.gpus, tuple) and self.gpus and len(self.gpus) < needed:
            raise ValueError(f"the parallel sizes need {needed} GPUs, but gpus has {len(self.gpus)}")
        return self

    @property
    def served(self) -> tuple[str, ...]:
        """The model names that clients use."""
        return self.served_model_name or (self.model,)

    @property
    def base_url(self) -> str:
        """The base URL of the API for clients on this machine, without `/v1`."""
        host = HOST if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def needs_gpu(self) -> bool:
        """Whether the server runs on GPUs."""
        return bool(self.gpus)

    @property
    def share(self) -> float:
        """The share of each GPU's memory that the server uses."""
        return self.gpu_memory_utilization or GPU_SHARE

    def shares_gpu_with(self, other: Server) -> bool:
        """Whether both servers use the same GPU."""
        if not (self.gpus and other.gpus):
            return False
        return "all" in (self.gpus, other.gpus) or bool(set(self.gpus) & set(other.gpus))

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the server without a key."""
        return self.api_key_file is None and not is_loopback(self.host)

    @property
    def stop_grace(self) -> int:
        """Seconds from the stop signal until the server is killed."""
        return (self.shutdown_timeout or 0) + TEARDOWN_S

    @property
    def digest(self) -> str:
        """A digest of the description. Equal descriptions have equal digests."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    def arguments(self, host: str | None = None, port: int | None = None) -> list[str]:
        """vLLM's arguments. `host` and `port`: the listen address in a container, if it differs."""
        listening = ["--host", host or self.host, "--port", str(port or self.port)]
        return [*listening, "--model", self.model, *self._flags(), *self.extra_args]

    def command(self, python: str) -> list[str]:
        """The command that starts the server as a process. `python`: a Python with vLLM."""
        return [python, *MODULE, *self.arguments()]

    def key(self) -> str | None:
        """The API key from `api_key_file`; None without a file. Raises `LaunchError`."""
        if self.api_key_file is None:
            return None
        try:
            key = self.api_key_file.read_text("utf-8-sig").strip()  # editors on Windows write a UTF-8 mark
        except OSError as error:
            raise self._no_key(f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self._no_key("cannot be read: it is not text") from error
        if not key:
            raise self._no_key(
                "is empty: the server would need no key. Write a key to the file, or remove api_key_file"
            )
        if not _KEY.fullmatch(key):  # a header and a shell pass these characters unchanged
            raise self._no_key("must contain only the key: one word of ASCII letters, digits and punctuation")
        return key

    def _no_key(self, why: str) -> LaunchError:
        return LaunchError(f"The api_key_file of the vLLM server {self.name!r}, {self.api_key_file}, {why}.")

    def _flags(self) -> list[str]:
        values: dict[str, Any] = {
            **{name: getattr(self, name) for name in FLAGS if name in type(self).model_fields},
            "enable_auto_tool_choice": self.tool_call_parser is not None,
            "enable_lora": bool(self.lora_modules),
            "lora_modules": tuple(f"{name}={path}" for name, path in self.lora_modules.items()),
        }
        return [part for name in FLAGS for part in _flag(name, values[name])]


def mounted_at(volume: str) -> str:
    """The path in the container of an entry of `volumes`, without `:ro`."""
    return volume.partition(":")[0]


def is_address(host: str) -> bool:
    """Whether the host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"


def _as_vllm_reads_it(argument: str) -> str:
    """The argument with dashes instead of underscores in the name of a flag."""
    if not argument.startswith("--"):
        return argument
    return _FLAG_NAME.sub(lambda name: name[0].replace("_", "-"), argument, count=1)


def _use_instead(argument: str) -> str | None:
    """The replacement for a rejected flag. argparse also accepts a flag's `--no-` form and its prefixes."""
    found = _FLAG_NAME.match(argument)
    name = found[0].replace("--no-", "--", 1) if found else ""
    if not name.startswith("--"):
        return _USE_INSTEAD.get(name)
    return next((use for flag, use in _USE_INSTEAD.items() if flag.startswith(name) and name != "--"), None)


def _flag(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False or value == ():
        return []
    if value is True:
        return [flag]
    return [flag, *value] if isinstance(value, tuple) else [flag, str(value)]
