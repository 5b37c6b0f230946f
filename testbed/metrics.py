"""What a vLLM server says it has answered: requests and seconds for each path, from its Prometheus page."""

from __future__ import annotations

from typing import NamedTuple

import httpx

from vllm_launch import metrics

_DURATION = "http_request_duration_seconds"


class Answered(NamedTuple):
    """How often a path was asked, and how long that took in all."""

    path: str
    requests: int
    seconds: float


def answered(base_url: str) -> list[Answered]:
    """The POST requests that the server has answered so far, path by path."""
    text = httpx.get(f"{base_url}/metrics", trust_env=False).raise_for_status().text
    page = metrics.read(text)
    seconds = page.by(f"{_DURATION}_sum", "handler", method="POST")
    requests = page.by(f"{_DURATION}_count", "handler", method="POST")
    return [Answered(path, int(count), seconds.get(path, 0.0)) for path, count in sorted(requests.items())]
