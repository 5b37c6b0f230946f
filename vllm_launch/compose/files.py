"""Generates docker-compose.yml and the files next to it from the descriptions of servers. Pure: it returns texts.

A server becomes a service, which is a dict in Compose's format, and the services become YAML. Values that users change
without editing the file are rows of `variables`. Their defaults are the values of the description.

    for path, text in compose.files().items():
        (folder / path).write_text(text)
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import container
from ..presets import PRESETS
from ..runtimes.base import LaunchError
from ..servers import Server
from ..yaml_text import written
from . import auxiliary, monitoring, variables
from .auxiliary import Spec

COMMAND = "vllm-launch compose --output ."
"""The command that writes the files. Each file's first line names it."""
REPLICAS = 2
_HEAD = f"# Written by `{COMMAND}`, which overwrites all changes. Put settings into .env, see .env.example"
_KEY = "vllm-api-key"
_HUGGINGFACE = variables.HF_CACHE.default


@dataclass(frozen=True, slots=True)
class _Part:
    """A service of the file, and the comment above it."""

    comment: str
    name: str
    spec: Spec
    is_vllm: bool = False


def files(servers: Iterable[Server] = PRESETS.values(), replicas: int = REPLICAS) -> Mapping[str, str]:
    """Every file of the stack: path below the folder of docker-compose.yml -> text. Raises `LaunchError`."""
    described = tuple(servers)
    names = [server.name for server in (*described, *_replicas(described, replicas))]
    return {
        "docker-compose.yml": generate(described, replicas),
        ".env.example": env_example(described),
        **monitoring.files(names, head=_HEAD),
    }


def generate(servers: Iterable[Server] = PRESETS.values(), replicas: int = REPLICAS) -> str:
    """docker-compose.yml. `replicas`: the number of replicas of the first generating GPU server, behind the router.

    Raises `LaunchError` for an invalid service name, and for two servers with the same variable or port.
    """
    described = tuple(servers)
    _require_names([server.name for server in (*described, *_replicas(described, replicas))])
    _require_ports(described)
    variables.of_servers(described)
    parts = [*_vllm_parts(described, replicas), *_auxiliary_parts()]
    common = _common([part.spec for part in parts if part.is_vllm])
    anchors = ["x-service: &service", _indented(written(auxiliary.always()))]
    if common:
        anchors += ["x-vllm: &vllm", "  <<: *service", _indented(written(common))]
    blocks = [_block(part, common) for part in parts]
    return "\n".join([_HEAD, "name: vllm", "", *anchors, "services:", *blocks, written(_top_level(described))])


def env_example(servers: Iterable[Server] = PRESETS.values()) -> str:
    """.env.example: every variable with its default, commented out."""
    described = tuple(servers)
    lines = [
        f"# Written by `{COMMAND}`. Copy it to .env, and uncomment the variables that you change.",
        "",
        "# Profiles that `docker compose up` starts: gpu, cpu or scale; and limits, monitoring, gpu-legacy.",
        "COMPOSE_PROFILES=gpu",
    ]
    for title, rows in variable_rows(described):
        lines += ["", f"# --- {title}"]
        for row in rows:
            lines += [f"# {row.meaning}", f"#{row.name}={row.default}"]
    return "\n".join(lines) + "\n"


def variable_rows(servers: Iterable[Server] = PRESETS.values()) -> list[tuple[str, tuple[variables.Variable, ...]]]:
    """All variables, in groups with a title."""
    described = tuple(servers)
    replicas = _replicas(described, REPLICAS)
    return [
        ("All services", variables.GENERAL),
        ("Images of vLLM", variables.images(described)),
        *variables.of_servers(described).items(),
        *((replica.name, variables.gpus(replica)) for replica in replicas),
        ("Auxiliary services", variables.AUXILIARY),
    ]


def _vllm_parts(servers: Sequence[Server], count: int) -> list[_Part]:
    replicas = _replicas(servers, count)
    replicated = _replicated(servers) if replicas else None
    parts = []
    for server in servers:
        profiles = [_profile(server)] + (["scale"] if replicas and server.needs_gpu and server != replicated else [])
        spec = _vllm(server, server, profiles, _earlier(server, servers))
        spec["ports"] = [f"{_address(server)}:{variables.port(server)}:{container.PORT}"]
        parts.append(_Part(server.model, server.name, spec, is_vllm=True))
    if replicated:
        others = [server for server in servers if server != replicated]
        for replica in replicas:
            spec = _vllm(replica, replicated, ["scale"], _earlier(replica, others))
            parts.append(_Part(f"A replica of {replicated.name}", replica.name, spec, is_vllm=True))
        spec = auxiliary.router(
            [replica.name for replica in replicas], _address(replicated), variables.port(replicated)
        )
        parts.append(_Part(f"Where {replicated.name} was: its replicas, behind vLLM's router", auxiliary.ROUTER, spec))
    return parts


def _auxiliary_parts() -> list[_Part]:
    return [
        _Part("Ollama, for rollback", "ollama", auxiliary.ollama()),
        _Part("Limits that several processes share: VLLM_LIMITS=redis://127.0.0.1:6379", "redis", auxiliary.redis()),
        _Part("Metrics of all servers, and alerts", "prometheus", auxiliary.prometheus()),
        _Part("The dashboard of the metrics", "grafana", auxiliary.grafana()),
    ]


def _vllm(server: Server, described: Server, profiles: list[str], earlier: Sequence[str]) -> Spec:
    """The service of a server. `described`: the server whose variables apply; for a replica, the replicated server."""
    check = container.health_check(server)
    spec: Spec = {
        "image": str(variables.image(described)),
        "profiles": profiles,
        "entrypoint": [_literal(part) for part in container.entrypoint(server)],
        "command": _command(server, described),
        "environment": _environment(described),
        "volumes": [_volume(source, target) for source, target in server.volumes.items()],
        "secrets": [{"source": _secret(described), "target": _KEY}],
        "shm_size": server.shm_size,
        "init": True,
        "stop_grace_period": f"{server.stop_grace}s",
        "healthcheck": auxiliary.health(
            ["CMD", *map(_literal, check.command)],
            str(variables.START_PERIOD),
            check.interval,
            check.timeout,
            check.retries,
        ),
    }
    if server.needs_gpu:
        spec["deploy"] = auxiliary.gpus(variables.gpus(server))
    if earlier:
        spec["depends_on"] = auxiliary.waits_for(*earlier)
    return spec


def _command(server: Server, described: Server) -> list[str]:
    values = variables.flags(described)
    command: list[str] = []
    for argument in container.command(server):
        row = values.get(command[-1]) if command else None
        command.append(str(row) if row else _literal(argument))
    return command


def _environment(server: Server) -> Spec:
    """The environment. `HF_TOKEN` has no value: Compose passes it on if it is set."""
    ours = variables.environment(server)
    values = {name: str(ours.get(name, _literal(value))) for name, value in server.env.items()}
    return {"HF_TOKEN": None, **values}


def _volume(source: str, target: str) -> str:
    return f"{variables.HF_CACHE if source == _HUGGINGFACE else _literal(source)}:{_literal(target)}"


def _address(server: Server) -> str:
    return f"${{{variables.BIND_ADDRESS.name}:-{container.address(server)}}}"


def _secret(server: Server) -> str:
    return _KEY if server.api_key_file is None else f"{server.name}-api-key"


def _profile(server: Server) -> str:
    return "gpu" if server.needs_gpu else "cpu"


def _earlier(server: Server, others: Sequence[Server]) -> list[str]:
    """The servers on the same GPU that start earlier: those with a smaller share.

    While vLLM measures the memory of a GPU, it assumes that other programs use a constant amount
    (v1/worker/gpu_worker.py).
    """
    mine = server.share, server.name
    return [other.name for other in others if server.shares_gpu_with(other) and (other.share, other.name) < mine]


def _replicated(servers: Sequence[Server]) -> Server | None:
    """The first generating GPU server that can have replicas on one machine."""
    for server in servers:
        if server.needs_gpu and server.gpus != "all" and server.runner != "pooling":
            return server
    return None


def _replicas(servers: Sequence[Server], count: int) -> list[Server]:
    """The replicas of that server, each on the next GPUs."""
    server = _replicated(servers)
    if server is None or server.gpus == "all" or count < 2:
        return []
    span = max(server.gpus) - min(server.gpus) + 1
    return [
        server.model_copy(
            update={"name": f"{server.name}-{place + 1}", "gpus": tuple(gpu + place * span for gpu in server.gpus)}
        )
        for place in range(count)
    ]


def _require_names(names: Sequence[str]) -> None:
    for name in names:
        if name in auxiliary.SERVICES:
            raise LaunchError(f"Rename the server {name!r}: docker-compose.yml has a service of that name.")
        if names.count(name) > 1:
            raise LaunchError(f"Two services of docker-compose.yml would have the name {name!r}. Rename one of them.")


def _require_ports(servers: Sequence[Server]) -> None:
    """Check the ports of each profile. The profile `scale` has the ports of `gpu`: its router replaces the server."""
    taken: dict[tuple[str, int], Server] = {}
    for server in servers:
        other = taken.setdefault((_profile(server), server.port), server)
        if other is not server:
            raise LaunchError(
                f"{other.name} and {server.name} have the same port, {server.port}, and the profile "
                f"{_profile(server)} starts both. Give one of them another port."
            )


def _top_level(servers: Sequence[Server]) -> Spec:
    keys: Spec = {_KEY: {"file": str(variables.KEY_FILE)}}
    keys |= {_secret(server): {"file": _literal(str(server.api_key_file))} for server in servers if server.api_key_file}
    sources = [source for server in servers for source in server.volumes]
    named = dict.fromkeys([_HUGGINGFACE, *(source for source in sources if source[0] not in "/.~")])
    # The volumes have no project prefix, so that `vllm-launch up` finds the same models.
    volumes: Spec = {name: {"name": name} for name in named}
    volumes |= dict.fromkeys((variables.OLLAMA_HOME.default, "prometheus", "grafana"))
    return {"secrets": keys, "volumes": volumes}


def _literal(text: str) -> str:
    """The text, escaped so that Compose finds no variables in it."""
    return text.replace("$", "$$")


def _common(specs: Sequence[Spec]) -> Spec:
    """The keys that are equal in all specs."""
    first, *rest = specs or [{}]
    return {key: value for key, value in first.items() if rest and all(spec.get(key) == value for spec in rest)}


def _block(part: _Part, common: Spec) -> str:
    shared, anchor = (common, "vllm") if part.is_vllm and common else ({}, "service")
    spec = {key: value for key, value in part.spec.items() if key not in shared}
    lines = [f"# {part.comment}", f"{part.name}:", f"  <<: *{anchor}", _indented(written(spec))]
    return textwrap.indent("\n".join(lines), "  ")


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")
