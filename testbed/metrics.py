"""The number of requests that a vLLM server has answered, and their seconds, by path, from its Prometheus metrics."""

from __future__ import annotations

from typing import NamedTuple

import httpx

from vllm_launch import metrics

_DURATION = "http_request_duration_seconds"


class Answered(NamedTuple):
    """The requests to a path, and their total duration in seconds."""

    path: str
    requests: int
    seconds: float


def answered(base_url: str) -> list[Answered]:
    """The POST requests that the server has answered so far, by path."""
    text = httpx.get(f"{base_url}/metrics", trust_env=False, timeout=60).raise_for_status().text
    page = metrics.read(text)
    seconds = page.by(f"{_DURATION}_sum", "handler", method="POST")
    requests = page.by(f"{_DURATION}_count", "handler", method="POST")
    return [Answered(path, int(count), seconds.get(path, 0.0)) for path, count in sorted(requests.items())]
