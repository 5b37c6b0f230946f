"""What users of docker-compose.yml change without touching it: variables of the environment, or of a file `.env`.

One row each, with the default that the file has for it; .env.example and docs/compose.md are written from the rows.
What a server's description says becomes a variable that bears the server's name: `VLLM_LLM_PORT`, `VLLM_EMBED_GPU`.
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
    """A row."""

    name: str
    default: str
    meaning: str

    def __str__(self) -> str:
        """What stands in the file: `${NAME:-default}`."""
        return f"${{{self.name}:-{self.default}}}"


BIND_ADDRESS = Variable("BIND_ADDRESS", HOST, "where vLLM, its router and Ollama listen; 0.0.0.0: for all machines")
TOOLS_BIND_ADDRESS = Variable("TOOLS_BIND_ADDRESS", HOST, "the same for Redis (no password!), Prometheus, Grafana")
KEY_FILE = Variable("VLLM_API_KEY_FILE", "/dev/null", "a file with the key that clients must send; /dev/null: none")
HF_TOKEN = Variable("HF_TOKEN", "", "Hugging Face token, for gated models")
HF_CACHE = Variable("HF_CACHE", "huggingface", "where models are kept: a volume, or a folder as ~/.cache/huggingface")
START_PERIOD = Variable("START_PERIOD", "1800s", "how long a server may take to download and load its model")
GENERAL = (BIND_ADDRESS, TOOLS_BIND_ADDRESS, KEY_FILE, HF_TOKEN, HF_CACHE, START_PERIOD)
"""Of all services. `HF_TOKEN` is handed on and has no default."""

ROUTER_IMAGE = Variable("VLLM_ROUTER_IMAGE", f"vllm-router:{router.VERSION}", "vLLM's router, built where missing")
ROUTER_POLICY = Variable("VLLM_ROUTER_POLICY", router.POLICY, "cache_aware, round_robin, power_of_two, consistent_hash")
OLLAMA_IMAGE = Variable("OLLAMA_IMAGE", "ollama/ollama:0.33.3", "Ollama's image")
OLLAMA_PORT = Variable("OLLAMA_PORT", "11434", "its port")
OLLAMA_HOME = Variable("OLLAMA_HOME", "ollama", "where it keeps models: a volume, or a folder as ~/.ollama")
REDIS_IMAGE = Variable("REDIS_IMAGE", "redis:8.8-alpine", "Redis' image")
REDIS_PORT = Variable("REDIS_PORT", "6379", "its port")
PROMETHEUS_IMAGE = Variable("PROMETHEUS_IMAGE", "prom/prometheus:v3.13.2", "Prometheus' image")
PROMETHEUS_PORT = Variable("PROMETHEUS_PORT", "9090", "its port")
PROMETHEUS_RETENTION = Variable("PROMETHEUS_RETENTION", "15d", "how long it keeps figures")
GRAFANA_IMAGE = Variable("GRAFANA_IMAGE", "grafana/grafana:13.2.1", "Grafana's image")
GRAFANA_PORT = Variable("GRAFANA_PORT", "3000", "its port")
GRAFANA_PASSWORD = Variable("GRAFANA_PASSWORD", "admin", "its admin's password at its first start")
AUXILIARY = (
    *(ROUTER_IMAGE, ROUTER_POLICY, OLLAMA_IMAGE, OLLAMA_PORT, OLLAMA_HOME, REDIS_IMAGE, REDIS_PORT),
    *(PROMETHEUS_IMAGE, PROMETHEUS_PORT, PROMETHEUS_RETENTION, GRAFANA_IMAGE, GRAFANA_PORT, GRAFANA_PASSWORD),
)
"""Of what stands beside the servers."""

_IMAGES = {
    IMAGE: Variable("VLLM_IMAGE", IMAGE, "vLLM's image"),
    CPU_IMAGE: Variable("VLLM_CPU_IMAGE", CPU_IMAGE, "vLLM's image for machines without a GPU"),
}
_FLAGS = {
    "--max-model-len": ("MAX_MODEL_LEN", "tokens of prompt and answer together"),
    "--max-num-seqs": ("MAX_NUM_SEQS", "sequences that are worked on at once"),
    "--gpu-memory-utilization": ("GPU_MEMORY_UTILIZATION", "the share of its GPU that it may fill"),
}
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": ("KVCACHE_SPACE", "GiB of memory for its KV cache")}


def port(server: Server) -> Variable:
    """The port of this machine that it is reached at."""
    return _of(server, "PORT", server.port, "its port")


def image(server: Server) -> Variable:
    """Its image: one variable for all servers of vLLM's own images."""
    return _IMAGES.get(server.image) or _of(server, "IMAGE", server.image, "its image")


def gpus(server: Server) -> tuple[Variable, ...]:
    """The numbers of its GPUs. How many there are is the description's to say: vLLM's parallel sizes hang on it."""
    if server.gpus == "all":
        return ()
    names = ["GPU"] if len(server.gpus) == 1 else [f"GPU_{place}" for place in range(len(server.gpus))]
    return tuple(_of(server, name, gpu, "its GPU") for name, gpu in zip(names, server.gpus, strict=True))


def flags(server: Server) -> Mapping[str, Variable]:
    """Those of its flags whose values are variables."""
    return {
        flag: _of(server, _FLAGS[flag][0], value, _FLAGS[flag][1])
        for flag, value in itertools.pairwise(server.arguments())
        if flag in _FLAGS
    }


def environment(server: Server) -> Mapping[str, Variable]:
    """Those of its environment's variables whose values are ours."""
    return {
        name: _of(server, _ENVIRONMENT[name][0], value, _ENVIRONMENT[name][1])
        for name, value in server.env.items()
        if name in _ENVIRONMENT
    }


def of_servers(servers: Sequence[Server]) -> Mapping[str, tuple[Variable, ...]]:
    """What each description makes a variable, by server. Raises `LaunchError` where one would have two defaults."""
    rows = {
        server.name: (port(server), *gpus(server), *flags(server).values(), *environment(server).values())
        for server in servers
    }
    _require_one_default([*GENERAL, *AUXILIARY, *map(image, servers), *itertools.chain(*rows.values())])
    return rows


def images(servers: Iterable[Server]) -> tuple[Variable, ...]:
    """The servers' images, each once."""
    return tuple({(row := image(server)).name: row for server in servers}.values())


def _of(server: Server, what: str, default: object, meaning: str) -> Variable:
    return Variable(f"{server.name.upper().replace('-', '_')}_{what}", str(default), meaning)


def _require_one_default(rows: Iterable[Variable]) -> None:
    known: dict[str, str] = {}
    for row in rows:
        if known.setdefault(row.name, row.default) != row.default:
            raise LaunchError(f"{row.name} would mean two things in docker-compose.yml: give one server another name.")
