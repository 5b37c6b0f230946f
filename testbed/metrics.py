"""What a vLLM server says it has answered: requests and seconds for each path, from its Prometheus page."""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx

_SAMPLE = re.compile(
    r'^http_request_duration_seconds_(count|sum)\{handler="([^"]+)",method="POST"\} (\S+)$', re.MULTILINE
)


class Answered(NamedTuple):
    """How often a path was asked, and how long that took in all."""

    path: str
    requests: int
    seconds: float


def answered(base_url: str) -> list[Answered]:
    """The POST requests that the server has answered so far, path by path."""
    page = httpx.get(f"{base_url}/metrics", trust_env=False).raise_for_status().text
    values: dict[str, dict[str, float]] = {}
    for kind, path, value in _SAMPLE.findall(page):
        values.setdefault(path, {})[kind] = float(value)
    return [Answered(path, int(kinds["count"]), kinds["sum"]) for path, kinds in sorted(values.items())]
