"""What the translation asks of the outside world.

A call is a generator, an `Exchange`: it yields steps and is sent their outcome. It does no I/O and reads no clock but
the one it is handed, so one text serves `Client` and `AsyncClient` (upstream.py drives it) and a test can play the
server with a list of replies.

    Ask(request)        -> Reply              one request, its whole reply
    Open(request)       -> Reply | None       open an event stream; None: it is open, Reply: the server refused
    NEXT                -> bytes | None       the next event's data; None: the stream has ended
    Sleep(seconds)      -> None               wait
    Enter(queue, s)     -> bool               wait in a queue for a place in it; False: none came free in time
    Spend(operation)    -> float              take one call from a rate; else the seconds until it is worth asking again
    AskAll(requests, s) -> list               several requests at once, each with its Reply or its exception
    a dict              -> None               a part for the caller, as Ollama would have sent it

Where no reply comes at all, the exception is thrown in at the yield.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import aiologic

JsonObject: TypeAlias = dict[str, Any]

LIST = "/v1/models"
"""The path at which a server says what it serves."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. `timeout` (seconds) is that of an `AskAll`; None leaves the client's own in force."""

    method: Literal["GET", "POST"]
    base: str
    path: str
    payload: JsonObject | None = None
    model: str | None = None
    timeout: float | None = None
    credential: str = "vllm"
    """Whose key is sent: 'vllm', 'ollama' or a provider's name."""

    @property
    def url(self) -> str:
        """The whole URL."""
        return self.base + self.path


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and the body of a reply."""

    status: int
    body: bytes
    retry_after: float | None = None
    """Seconds until the server wants to be asked again, where it said so."""

    @property
    def ok(self) -> bool:
        """Whether the server did what was asked."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request, read its whole reply."""

    request: Request


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Send a request whose reply is an event stream."""

    request: Request


@dataclass(frozen=True, slots=True)
class NextEvent:
    """Read the next event of the open stream."""


NEXT_EVENT = NextEvent()


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AcquireSlot:
    """Wait in a queue for a place in it, for `timeout` seconds; None: until one comes free."""

    queue: aiologic.Semaphore
    timeout: float | None


@dataclass(frozen=True, slots=True)
class TakeToken:
    """Take one call of an operation from its rate."""

    operation: str


@dataclass(frozen=True, slots=True)
class SendAll:
    """Send requests side by side and wait for all of their replies, `timeout` seconds in all, whatever the servers do.

    The outcome has a `Reply` or an exception for each of them, in their order; who has not answered in time is `Silent`
    or `ServerUnreachable`.
    """

    requests: tuple[Request, ...]
    timeout: float
    enough: Callable[[Reply], bool] | None = None
    """Whether a reply is what was wanted: the others then have `grace` seconds more, and no longer than `timeout`."""
    grace: float = 0.0


Step: TypeAlias = Send | OpenStream | NextEvent | Sleep | AcquireSlot | TakeToken | SendAll | JsonObject
Outcome: TypeAlias = Reply | bytes | bool | float | list[Reply | Exception] | None
R = TypeVar("R")
Steps: TypeAlias = Generator[Step, Any, R]


class Clock(Protocol):
    """Where a call reads the time."""

    def ticks(self) -> int:
        """Nanoseconds of a clock that never goes back."""
        ...

    def stamp(self) -> str:
        """The time of day as Ollama writes it: RFC 3339, UTC, nanoseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def ticks(self) -> int:
        """Nanoseconds of `time.perf_counter`."""
        return time.perf_counter_ns()

    def stamp(self) -> str:
        """Now, such as `2026-08-21T09:31:20.920865535Z`."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def ask(
    method: Literal["GET", "POST"],
    base: str,
    path: str,
    payload: JsonObject | None = None,
    *,
    model: str | None = None,
) -> Steps[Reply]:
    """Send one request and return its reply."""
    reply: Reply = yield Send(Request(method, base, path, payload, model))
    return reply
