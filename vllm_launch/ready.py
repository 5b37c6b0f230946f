"""Whether a server answers: what `up` waits for, and what `status` shows.

A port that is open says nothing: another program may have it. So a server is ready when `GET /health` is 200 and
`GET /v1/models` names what it is described to serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import httpx

from .errors import LaunchError
from .servers import Server

TIMEOUT_S = 3.0
"""How long a server may take to say how it is (seconds). A busy vLLM answers `/health` in milliseconds."""

Readiness: TypeAlias = Literal["ready", "unreachable", "unhealthy", "unexpected-server"]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a server is.

    ready: it serves its model. silent: nobody answers, as while it loads. unhealthy: it answers that something is
    wrong. stranger: something else than the described server answers at its address.
    """

    readiness: Readiness
    reason: str = ""
    """Why it is not ready, in words."""

    @property
    def ready(self) -> bool:
        """Whether it serves its model."""
        return self.readiness == "ready"


def client() -> httpx.Client:
    """A client that no proxy of the environment comes between."""
    return httpx.Client(trust_env=False, timeout=TIMEOUT_S)


def ask(server: Server, http: httpx.Client) -> Answer:
    """How the server is."""
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
            "unexpected-server", f"the server at {server.base_url} asks for a key that is not in api_key_file"
        )
    return _served(server, models)


def _served(server: Server, models: httpx.Response) -> Answer:
    try:
        names = [str(card["id"]) for card in models.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return Answer(
            "unexpected-server", f"what answers at {server.base_url} is no vLLM (status {models.status_code})"
        )
    missing = [name for name in server.served if name not in names]
    if missing:
        reason = f"the server at {server.base_url} serves {', '.join(names)}, not {', '.join(missing)}"
        return Answer("unexpected-server", reason)
    return Answer("ready")
