"""One call of the Ollama API at one server: what an operation receives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ollama import ResponseError

from .mapping.ollama_errors import response_error
from .servers.server import Target
from .settings import Profile
from .steps import Clock, JsonObject, Reply, Request, Send, Steps, SystemClock
from .telemetry.notices import Notices

T = TypeVar("T")


class ModelFacts(dict[tuple[str, str, Hashable], object]):
    """What a client has determined about served models, such as how a chat template renders thinking.

    The keys are the server's URL, the served name and the subject.
    """

    def forget(self, url: str) -> None:
        """Drop the facts of a server: it may have been restarted with another model."""
        for key in [key for key in self if key[0] == url]:
            self.pop(key, None)


@dataclass(frozen=True)
class ClientContext:
    """What all calls of a client share."""

    clock: Clock = field(default_factory=SystemClock)
    notices: Notices = field(default_factory=Notices)
    facts: ModelFacts = field(default_factory=ModelFacts)


@dataclass(slots=True)
class Progress:
    """How far a call has come."""

    first_token: int | None = None
    """When the first event of the answer arrived (ticks)."""
    delivered: bool = False
    """Whether the caller has received a part. From then on the call is never repeated."""
    retry_after: float | None = None
    """The `Retry-After` of the last refusal (seconds)."""
    tokens_in: int = 0
    tokens_out: int = 0
    done: bool = False
    """Whether the last part is complete: a caller that reads no further has cancelled nothing."""


@dataclass(slots=True)
class Call:
    """One call: `body` as the official client sends it to `path`, and the server that answers it."""

    path: str
    body: Mapping[str, Any]
    target: Target
    profile: Profile
    context: ClientContext
    started: int
    """When the call began (ticks)."""
    progress: Progress = field(default_factory=Progress)
    from_provider: bool = False
    """Whether a provider answers it, not vLLM."""
    name: str = field(init=False)
    """The requested model; replies repeat it."""
    stream: bool = field(init=False)
    """Whether the caller wants the parts as they arrive."""
    served: str = field(init=False)
    """The model's name at the server."""
    window: int | None = field(init=False)
    """The context window of the served model (tokens); None: not known."""
    url: str = field(init=False)
    """The base URL of the server."""

    def __post_init__(self) -> None:
        """Derive what every operation reads."""
        self.name = str(self.body.get("model", ""))
        self.stream = bool(self.body.get("stream"))
        self.served = self.target.card.id
        self.window = self.target.card.max_model_len
        self.url = self.target.server.url

    def fact(self, subject: Hashable, kind: type[T]) -> T | None:
        """What is known about the served model; None: not known."""
        fact = self.context.facts.get((self.url, self.served, subject))
        return fact if isinstance(fact, kind) else None

    def keep_fact(self, subject: Hashable, fact: object) -> None:
        """Keep a fact about the served model until its server changes."""
        self.context.facts[self.url, self.served, subject] = fact

    def notice(self, event: str, subject: str, text: str, /, **facts: object) -> None:
        """Log a warning once per client and subject."""
        self.context.notices.notice(event, subject, text, **facts)

    def request(self, path: str, payload: JsonObject, method: Literal["GET", "POST"] = "POST") -> Request:
        """A request to the server, for the served model."""
        return Request(method, self.url, path, {"model": self.served, **payload}, self.name)

    def post(self, path: str, payload: JsonObject) -> Steps[Reply]:
        """POST for the served model and return the reply."""
        reply: Reply = yield Send(self.request(path, payload))
        self.progress.retry_after = reply.retry_after
        return reply

    def unsupported(self, operation: str) -> ResponseError:
        """Ollama's refusal of an operation that this kind of model does not have."""
        return response_error(f'"{self.name}" does not support {operation}', 400)
