"""The readiness check of a server. `up` waits for it, and `status` shows its result.

An open port is not enough: another program may use it. A server is ready if `GET /health` returns 200 and
`GET /v1/models` lists the models of its description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import httpx

from .errors import LaunchError
from .servers import Server

TIMEOUT_S = 3.0
"""Timeout of a request (seconds). A busy vLLM answers `/health` in milliseconds."""

Readiness: TypeAlias = Literal["ready", "unreachable", "unhealthy", "unexpected-server"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a readiness check.

    ready: the server serves its model. unreachable: no server answers, for example during loading. unhealthy: the
    server reports an error. unexpected-server: another server than the described one answers at the address.
    """

    readiness: Readiness
    reason: str = ""
    """Why the server is not ready; empty if it is."""

    @property
    def ready(self) -> bool:
        """Whether the server serves its model."""
        return self.readiness == "ready"


def client() -> httpx.Client:
    """An HTTP client that ignores the proxy variables."""
    return httpx.Client(trust_env=False, timeout=TIMEOUT_S)


def ask(server: Server, http: httpx.Client) -> Answer:
    """Check the server's readiness."""
    try:
        key = server.key()
    except LaunchError as error:
        return Answer("unhealthy", str(error).removesuffix("."))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        health = http.get(f"{server.base_url}/health")
        if not health.is_success:
            return Answer("unhealthy", f"GET /health answers {health.status_code}")
        models = http.get(f"{server.base_url}/v1/models", headers=headers)
    except httpx.HTTPError as problem:
        return Answer("unreachable", f"{server.base_url} does not answer: {problem or type(problem).__name__}")
    if models.status_code == 401:
        return Answer(
            "unexpected-server", f"the server at {server.base_url} requires a key that is not in api_key_file"
        )
    return _served(server, models)


def _served(server: Server, models: httpx.Response) -> Answer:
    try:
        names = [str(card["id"]) for card in models.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return Answer("unexpected-server", f"the server at {server.base_url} is not vLLM (status {models.status_code})")
    missing = [name for name in server.served if name not in names]
    if missing:
        reason = f"the server at {server.base_url} serves {', '.join(names)}, not {', '.join(missing)}"
        return Answer("unexpected-server", reason)
    return Answer("ready")
