"""The arguments of vLLM's router, which balances the replicas of a model. Pure.

    ["vllm-router", *router.arguments(["http://gpu-1:8001", "http://gpu-2:8001"], port=8001)]

`FLAGS` lists the values that differ from the router's defaults (vllm-router 0.1.17, vllm_router/router_args.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .servers import HOST

VERSION = "0.1.17"
REQUIREMENT = f"vllm-router=={VERSION}"
"""The pip requirement that installs `COMMAND`. Python 3.8 or newer, on Linux (x86_64, aarch64; glibc 2.28)."""
COMMAND = "vllm-router"
READINESS = "/readiness"
"""The path that returns 200 if at least one replica is healthy. `/health` requires all of them."""
METRICS_PORT = 29000
"""The default port of the router's Prometheus metrics."""
POLICY = "cache_aware"
"""Routes to the replica whose cache has the longest prefix of the prompt, unless the load is unbalanced."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A row: a flag, its value, and the router's default."""

    name: str
    value: int
    default: int
    why: str


FLAGS = (
    Flag("--retry-max-retries", 5, 5, "retries of a call that failed"),
    Flag(
        "--cb-failure-threshold",
        2,
        10,
        "failures that open a replica's circuit; fewer than the retries, because `cache_aware` sends a call to the "
        "same replica until the circuit is open",
    ),
    Flag("--cb-success-threshold", 1, 3, "successes that close the circuit"),
    Flag("--cb-timeout-duration-secs", 10, 60, "seconds until a half-open probe"),
    Flag(
        "--health-check-interval-secs",
        1,
        60,
        "seconds between two health checks; until they fail, `GET /v1/models`, which the router neither retries nor "
        "counts for the circuit, can still reach a dead replica",
    ),
    Flag("--health-failure-threshold", 2, 3, "failed checks after which a replica receives no calls"),
    Flag("--health-success-threshold", 1, 2, "successful checks after which a replica receives calls again"),
)
"""With these values, no call fails when a replica dies. `tests/launch/test_router.py` kills one."""


def arguments(
    workers: Sequence[str],
    port: int | str,
    host: str = HOST,
    policy: str = POLICY,
    metrics_port: int = METRICS_PORT,
) -> list[str]:
    """The router's arguments. `workers`: base URLs of the replicas, without `/v1`; `host`: the listen address."""
    return [
        *("--host", host, "--port", str(port), "--worker-urls", *workers, "--policy", policy),
        *(part for flag in FLAGS for part in (flag.name, str(flag.value))),
        *("--prometheus-host", host, "--prometheus-port", str(metrics_port)),
    ]
