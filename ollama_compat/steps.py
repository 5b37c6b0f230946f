"""Steps: what an operation asks a driver to do.

An operation is a generator. It yields a step, a driver (transport/driver.py) performs it and sends the outcome back.
The generator itself does no I/O and reads no clock but the one it receives, so one text serves `Client` and
`AsyncClient`, and a unit test plays the server with a list of replies.

    Send(request)            -> Reply              send a request, read the whole reply
    SendAll(requests, s)     -> list               send requests side by side: a Reply or an exception for each
    OpenStream(request)      -> Reply | None       open an event stream; None: it is open, Reply: the server refused
    NEXT_EVENT               -> bytes | None       the data of the next event; None: the stream has ended
    Sleep(seconds)           -> None               wait
    AcquireSlot(queue, s)    -> bool               wait for a slot of a semaphore; False: none became free in time
    TakeToken(operation)     -> float              take one call from a rate, or return the seconds until a retry helps
    a dict                   -> None               a part for the caller, in Ollama's format

When a request gets no reply, the driver throws the exception in at the yield.
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

MODELS_PATH = "/v1/models"
"""The path at which a server lists the models that it serves."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. `timeout` (seconds) applies to `SendAll`; None leaves the client's own timeout in force."""

    method: Literal["GET", "POST"]
    base: str
    path: str
    payload: JsonObject | None = None
    model: str | None = None
    timeout: float | None = None
    credential: str = "vllm"
    """Which key the driver sends: 'vllm', 'ollama' or a provider's name."""

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
    """The server's `Retry-After` in seconds, if it sent one."""

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and read its whole reply."""

    request: Request


@dataclass(frozen=True, slots=True)
class SendAll:
    """Send requests side by side and wait for all replies, at most `timeout` seconds in all.

    The outcome has a `Reply` or an exception for each request, in order. A server that does not reply in time yields
    `ServerTimeout` or `ServerUnreachable`.
    """

    requests: tuple[Request, ...]
    timeout: float
    enough: Callable[[Reply], bool] | None = None
    """Whether a reply is the wanted one: the other servers then get `grace` seconds more, within `timeout`."""
    grace: float = 0.0


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
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AcquireSlot:
    """Wait for a slot of a semaphore, at most `timeout` seconds; None: without a limit."""

    queue: aiologic.Semaphore
    timeout: float | None


@dataclass(frozen=True, slots=True)
class TakeToken:
    """Take one call of an operation from its rate."""

    operation: str


Step: TypeAlias = Send | SendAll | OpenStream | NextEvent | Sleep | AcquireSlot | TakeToken | JsonObject
Outcome: TypeAlias = Reply | bytes | bool | float | list[Reply | Exception] | None
R = TypeVar("R")
Steps: TypeAlias = Generator[Step, Any, R]


class Interceptor:
    """Sees the steps of a generator before the driver does, and the outcomes before the generator does.

    This base class passes everything through. `intercept` applies it.
    """

    def before_part(self) -> None:
        """Called before the inner generator hands a part to the caller."""

    def after_part(self) -> None:
        """Called after the caller took a part; not called if the caller closes the generator instead."""

    def step(self, step: Step) -> Step | Reply:
        """The step for the driver; a `Reply` answers the step at once."""
        return step

    def outcome(self, _step: Step, outcome: Any, /) -> Any:
        """The outcome for the inner generator. An exception that it raises is thrown in instead."""
        return outcome

    def error(self, error: Exception) -> Exception:
        """The exception for the caller in place of one that the inner generator raised."""
        return error


def intercept(inner: Steps[None], interceptor: Interceptor) -> Steps[None]:
    """Run `inner` and let `interceptor` see its steps and their outcomes."""
    outcome: Any = None
    try:
        while True:
            try:
                step = inner.throw(outcome) if isinstance(outcome, Exception) else inner.send(outcome)
            except StopIteration:
                return
            try:
                if isinstance(step, dict):
                    interceptor.before_part()
                    outcome = yield step
                    interceptor.after_part()
                    continue
                intercepted = interceptor.step(step)
                outcome = intercepted if isinstance(intercepted, Reply) else (yield intercepted)
                outcome = interceptor.outcome(step, outcome)
            except Exception as error:
                outcome = error
    except Exception as error:
        translated = interceptor.error(error)
        if translated is error:
            raise
        raise translated from None
    finally:
        inner.close()


class Clock(Protocol):
    """Where a call reads the time."""

    def ticks(self) -> int:
        """Nanoseconds of a monotonic clock."""
        ...

    def stamp(self) -> str:
        """The time of day in Ollama's format: RFC 3339, UTC, nanoseconds."""
        ...


class SystemClock:
    """The clock of the machine."""

    ticks = staticmethod(time.perf_counter_ns)
    """Nanoseconds of `time.perf_counter`."""

    def stamp(self) -> str:
        """Now, such as `2026-08-21T09:31:20.920865535Z`."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
