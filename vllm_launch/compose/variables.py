"""The settings of docker-compose.yml: variables of the environment or of a file `.env`.

Each row has the default that the file contains. .env.example and docs/compose.md are written from the rows. A variable
for a value of a server's description starts with the server's name: `VLLM_LLM_PORT`, `VLLM_EMBED_GPU`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import router
from ..runtimes.base import LaunchError
from ..servers import CPU_IMAGE, HOST, IMAGE, Server


@dataclass(frozen=True, slots=True)
class Variable:
    """A row: a variable, its default and its meaning."""

    name: str
    default: str
    meaning: str

    def __str__(self) -> str:
        """The text in the file: `${NAME:-default}`."""
        return f"${{{self.name}:-{self.default}}}"


BIND_ADDRESS = Variable("BIND_ADDRESS", HOST, "listen address of vLLM, its router and Ollama; 0.0.0.0: all machines")
TOOLS_BIND_ADDRESS = Variable("TOOLS_BIND_ADDRESS", HOST, "the same for Redis (no password!), Prometheus, Grafana")
KEY_FILE = Variable("VLLM_API_KEY_FILE", "/dev/null", "file with the key that clients must send; /dev/null: no key")
HF_TOKEN = Variable("HF_TOKEN", "", "Hugging Face token, for gated models")
HF_CACHE = Variable("HF_CACHE", "huggingface", "storage of models: a volume, or a folder such as ~/.cache/huggingface")
START_PERIOD = Variable("START_PERIOD", "1800s", "maximum time to download and load a model")
GENERAL = (BIND_ADDRESS, TOOLS_BIND_ADDRESS, KEY_FILE, HF_TOKEN, HF_CACHE, START_PERIOD)
"""The variables of all services. `HF_TOKEN` is passed on and has no default."""

ROUTER_IMAGE = Variable("VLLM_ROUTER_IMAGE", f"vllm-router:{router.VERSION}", "vLLM's router, built if missing")
ROUTER_POLICY = Variable("VLLM_ROUTER_POLICY", router.POLICY, "cache_aware, round_robin, power_of_two, consistent_hash")
OLLAMA_IMAGE = Variable("OLLAMA_IMAGE", "ollama/ollama:0.33.3", "Ollama's image")
OLLAMA_PORT = Variable("OLLAMA_PORT", "11434", "Ollama's port")
OLLAMA_HOME = Variable("OLLAMA_HOME", "ollama", "storage of Ollama's models: a volume, or a folder such as ~/.ollama")
REDIS_IMAGE = Variable("REDIS_IMAGE", "redis:8.8-alpine", "Redis' image")
REDIS_PORT = Variable("REDIS_PORT", "6379", "Redis' port")
PROMETHEUS_IMAGE = Variable("PROMETHEUS_IMAGE", "prom/prometheus:v3.13.2", "Prometheus' image")
PROMETHEUS_PORT = Variable("PROMETHEUS_PORT", "9090", "Prometheus' port")
PROMETHEUS_RETENTION = Variable("PROMETHEUS_RETENTION", "15d", "retention of Prometheus' data")
GRAFANA_IMAGE = Variable("GRAFANA_IMAGE", "grafana/grafana:13.2.1", "Grafana's image")
GRAFANA_PORT = Variable("GRAFANA_PORT", "3000", "Grafana's port")
GRAFANA_PASSWORD = Variable("GRAFANA_PASSWORD", "admin", "password of Grafana's admin at the first start")
AUXILIARY = (
    *(ROUTER_IMAGE, ROUTER_POLICY, OLLAMA_IMAGE, OLLAMA_PORT, OLLAMA_HOME, REDIS_IMAGE, REDIS_PORT),
    *(PROMETHEUS_IMAGE, PROMETHEUS_PORT, PROMETHEUS_RETENTION, GRAFANA_IMAGE, GRAFANA_PORT, GRAFANA_PASSWORD),
)
"""The variables of the auxiliary services."""

_IMAGES = {
    IMAGE: Variable("VLLM_IMAGE", IMAGE, "vLLM's image"),
    CPU_IMAGE: Variable("VLLM_CPU_IMAGE", CPU_IMAGE, "vLLM's image for machines without a GPU"),
}
_FLAGS = {
    "--max-model-len": ("MAX_MODEL_LEN", "tokens of prompt plus answer"),
    "--max-num-seqs": ("MAX_NUM_SEQS", "maximum number of sequences in progress"),
    "--gpu-memory-utilization": ("GPU_MEMORY_UTILIZATION", "share of the GPU's memory that the server may use"),
}
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": ("KVCACHE_SPACE", "GiB of memory for the KV cache")}


def port(server: Server) -> Variable:
    """The variable of the server's port on this machine."""
    return _of(server, "PORT", server.port, "port of the server")


def image(server: Server) -> Variable:
    """The variable of the image. All servers with the same official vLLM image share one variable."""
    return _IMAGES.get(server.image) or _of(server, "IMAGE", server.image, "image of the server")


def gpus(server: Server) -> tuple[Variable, ...]:
    """The variables of the GPU numbers. The description sets how many: vLLM's parallel sizes depend on it."""
    if server.gpus == "all":
        return ()
    names = ["GPU"] if len(server.gpus) == 1 else [f"GPU_{place}" for place in range(len(server.gpus))]
    return tuple(_of(server, name, gpu, "GPU of the server") for name, gpu in zip(names, server.gpus, strict=True))


def flags(server: Server) -> Mapping[str, Variable]:
    """The flags whose values are variables."""
    return {
        flag: _of(server, _FLAGS[flag][0], value, _FLAGS[flag][1])
        for flag, value in itertools.pairwise(server.arguments())
        if flag in _FLAGS
    }


def environment(server: Server) -> Mapping[str, Variable]:
    """The environment variables of the server whose values are variables here."""
    return {
        name: _of(server, _ENVIRONMENT[name][0], value, _ENVIRONMENT[name][1])
        for name, value in server.env.items()
        if name in _ENVIRONMENT
    }


def of_servers(servers: Sequence[Server]) -> Mapping[str, tuple[Variable, ...]]:
    """The variables of each server. Raises `LaunchError` if a variable would have two defaults."""
    rows = {
        server.name: (port(server), *gpus(server), *flags(server).values(), *environment(server).values())
        for server in servers
    }
    _require_one_default([*GENERAL, *AUXILIARY, *map(image, servers), *itertools.chain(*rows.values())])
    return rows


def images(servers: Iterable[Server]) -> tuple[Variable, ...]:
    """The variables of the images, without duplicates."""
    return tuple({(row := image(server)).name: row for server in servers}.values())


def _of(server: Server, what: str, default: object, meaning: str) -> Variable:
    return Variable(f"{server.name.upper().replace('-', '_')}_{what}", str(default), meaning)


def _require_one_default(rows: Iterable[Variable]) -> None:
    known: dict[str, str] = {}
    for row in rows:
        if known.setdefault(row.name, row.default) != row.default:
            raise LaunchError(f"{row.name} would have two meanings in docker-compose.yml. Rename one of the servers.")
