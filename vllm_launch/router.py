"""vLLM's router before the replicas of a model: the arguments that it is started with, whoever starts it. Pure.

    ["vllm-router", *router.arguments(["http://gpu-1:8001", "http://gpu-2:8001"], port=8001)]

`FLAGS` has what differs from the router's own defaults (vllm-router 0.1.17, vllm_router/router_args.py), and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .servers import HOST

VERSION = "0.1.17"
REQUIREMENT = f"vllm-router=={VERSION}"
"""What pip installs; the command is then `COMMAND`. Python 3.8 or newer, on Linux (x86_64, aarch64; glibc 2.28)."""
COMMAND = "vllm-router"
READINESS = "/readiness"
"""The path that answers 200 while at least one replica is healthy. `/health` wants all of them."""
METRICS_PORT = 29000
"""Where it tells Prometheus of itself, unless it is told otherwise."""
POLICY = "cache_aware"
"""To the replica whose cache has the beginning of the prompt, as long as none has far more to do than another."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A row: what is said to the router, and its own default."""

    name: str
    value: int
    default: int
    why: str


FLAGS = (
    Flag("--retry-max-retries", 5, 5, "how often a call that failed is tried again"),
    Flag(
        "--cb-failure-threshold",
        2,
        10,
        "failures after which a replica is left alone; fewer than there are retries, since `cache_aware` sends a call "
        "back to the same replica until then",
    ),
    Flag("--cb-success-threshold", 1, 3, "successes after which it is trusted again"),
    Flag("--cb-timeout-duration-secs", 10, 60, "seconds until it is tried again"),
    Flag(
        "--health-check-interval-secs",
        1,
        60,
        "seconds between two checks of its health; until they fail, `GET /v1/models`, which is not tried again and "
        "opens no breaker, may still go to a dead replica",
    ),
    Flag("--health-failure-threshold", 2, 3, "failed checks after which it gets no calls"),
    Flag("--health-success-threshold", 1, 2, "good checks after which it gets some again"),
)
"""What makes a replica's death cost no call. `tests/launch/test_router.py` kills one."""


def arguments(
    workers: Sequence[str],
    port: int | str,
    host: str = HOST,
    policy: str = POLICY,
    metrics_port: int = METRICS_PORT,
) -> list[str]:
    """The router's arguments. `workers`: the replicas' base URLs, without `/v1`; `host`: where it listens itself."""
    return [
        *("--host", host, "--port", str(port), "--worker-urls", *workers, "--policy", policy),
        *(part for flag in FLAGS for part in (flag.name, str(flag.value))),
        *("--prometheus-host", host, "--prometheus-port", str(metrics_port)),
    ]
