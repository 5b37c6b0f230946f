"""Starts and stops servers with any runtime.

`up` is idempotent. It leaves a server that runs as described, replaces one that differs only with `replacing`, and
starts one that is missing or has exited. Servers that share a GPU load one after another, the smallest first: vLLM
measures the free memory while it starts, and a concurrent load would change the result. A ready server keeps running,
even if others fail. If `up` fails (an error, Ctrl-C, the time limit), it stops the servers that it started and that are
not ready. It does not remove a server that exited, so that its log stays readable. If a launcher ends before its server
is ready (`kept` is False), the next launcher takes the server over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict

import httpx

from . import causes, logs, ready
from .runtimes.base import Instance, LaunchError, Runtime
from .runtimes.state import exclusive_lock
from .servers import Server

READY_TIMEOUT_S = 1800.0
"""How long a server may take to become ready (seconds), including the download of a large model."""
_LOADING_GRACE_S = 2.0  # a loading server has no requests to finish
_POLL_S = 0.5

Action: TypeAlias = Literal["stay", "start", "replace"]


@dataclass(frozen=True, slots=True)
class Step:
    """The action of `up` for one server."""

    server: Server
    action: Action
    found: Instance | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a server's start."""

    server: Server
    kind: Literal["stays", "waits", "prepares", "starts", "ready", "failed"]
    text: str = ""
    """A description, one line; for `failed`, the whole error."""
    seconds: float = 0.0
    """The time since the server's start."""


class Options(TypedDict, total=False):
    """The options of `up`."""

    replacing: bool
    """Whether a running server that differs from its description is replaced."""
    timeout_s: float
    """How long a server may take to become ready (seconds)."""
    waiting: bool
    """Whether `up` waits until all servers are ready."""


Watch: TypeAlias = Callable[[Event], None]


def steps(wanted: Sequence[Server], found: Sequence[Instance], *, replacing: bool) -> list[Step]:
    """The step for each server. Raises `LaunchError` if a server differs and `replacing` is False."""
    _require_distinct(wanted, found)
    by_name = {instance.name: instance for instance in found}
    made = [_step(server, by_name.get(server.name)) for server in wanted]
    differing = [step for step in made if step.action == "replace"]
    if differing and not replacing:
        raise _differs(differing)
    return made


def up(
    runtime: Runtime,
    wanted: Sequence[Server],
    watch: Watch,
    *,
    replacing: bool = False,
    timeout_s: float = READY_TIMEOUT_S,
    waiting: bool = True,
) -> list[Instance]:
    """Start the servers and return them: ready, or only running if `waiting` is False.

    Raises `LaunchError` if a server fails, after waiting for the others.
    """
    todo = steps(wanted, runtime.instances(), replacing=replacing)
    for step in todo:
        if step.action == "stay":
            watch(Event(step.server, "stays"))
    starts = sorted((step for step in todo if step.action != "stay"), key=lambda step: step.server.share)
    _prepare_all(runtime, [step.server for step in starts], watch)
    launch = _Launch(runtime, watch, timeout_s)
    with launch.leaving_nothing_unready():
        if waiting:
            launch.run(starts, [step.found for step in todo if step.action == "stay" and step.found])
        else:
            for step in starts:
                runtime.keep(launch.start(step))
                launch.starting.pop(step.server.name)
    if launch.failures:
        raise LaunchError("\n\n".join(launch.failures))
    names = {server.name for server in wanted}
    return [instance for instance in runtime.instances() if instance.name in names]


def down(
    runtime: Runtime, names: Sequence[str], report: Callable[[str], None], grace_s: float | None = None
) -> list[str]:
    """Stop the servers of these names, or all servers without names. Returns the names of the stopped servers.

    `grace_s`: how long a server may take to exit (seconds). None: the value of its description.
    """
    found = [instance for instance in runtime.instances() if not names or instance.name in names]
    with exclusive_lock(report) if found else contextlib.nullcontext():
        for instance in found:
            report(f"Stopping {instance.name}")
            runtime.stop(instance, instance.server.stop_grace if grace_s is None else grace_s)
    return [instance.name for instance in found]


def _prepare_all(runtime: Runtime, servers: Sequence[Server], watch: Watch) -> None:
    """Prepare all servers before any is started or stopped."""
    for server in servers:
        try:
            _prepare(runtime, server, watch)
        except LaunchError as error:
            others = ", ".join(other.name for other in servers if other is not server)
            if not others:
                raise
            raise LaunchError(f"{error}\nNo server has been started or stopped; this includes {others}.") from error


def _prepare(runtime: Runtime, server: Server, watch: Watch) -> None:
    try:
        runtime.prepare(server, lambda line: watch(Event(server, "prepares", line)))
    except LaunchError as error:
        watch(Event(server, "failed", str(error)))
        raise


class _Launch:
    """The servers that one `up` starts."""

    def __init__(self, runtime: Runtime, watch: Watch, timeout_s: float) -> None:
        self.starting: dict[str, Instance] = {}
        self.failures: list[str] = []
        self._runtime = runtime
        self._watch = watch
        self._timeout_s = timeout_s
        self._own: set[str] = set()
        self._since: dict[str, float] = {}

    def run(self, starts: Sequence[Step], there: Sequence[Instance]) -> None:
        """Start the servers, one after another on a shared GPU, and wait until each is ready or has failed."""
        pending = list(starts)
        for instance in there:  # a running server may still be loading, started by another `up`
            self.starting[instance.name] = instance
            self._since[instance.name] = time.monotonic()
        with ready.client() as http:
            while pending or self.starting:
                for step in pending[:]:
                    if any(step.server.shares_gpu_with(other.server) for other in self.starting.values()):
                        self._watch(Event(step.server, "waits", "its GPU is busy with another start"))
                        continue
                    pending.remove(step)
                    with self._failing(step.server):
                        self.start(step)
                self._look(http)
                if pending or self.starting:
                    time.sleep(_POLL_S)

    def start(self, step: Step) -> Instance:
        """Start or replace one server. If another launcher has started it meanwhile, only wait for it."""
        server = step.server
        with exclusive_lock(lambda line: self._watch(Event(server, "prepares", line))):
            there = next((each for each in self._runtime.instances() if each.name == server.name), None)
            now = _step(server, there)
            if now.action == "replace" and step.action != "replace":
                raise _differs([now])
            if there is not None and now.action == "stay":
                instance = there
            else:
                if there is not None:
                    self._runtime.stop(there, there.server.stop_grace)
                self._watch(Event(server, "starts"))
                instance = self._runtime.start(server)
                self._own.add(server.name)
            self.starting[server.name] = instance
        self._since[server.name] = time.monotonic()
        return instance

    @contextlib.contextmanager
    def leaving_nothing_unready(self) -> Iterator[None]:
        """On any exception, stop the servers that are not ready. Report those that cannot be stopped."""
        try:
            yield
        except BaseException as error:
            left = self._stop_unready()
            if not left:
                raise
            messages = [*self.failures, *([str(error)] if isinstance(error, LaunchError) else [])]
            names = " ".join(left)
            messages.append(
                f"Not ready, and not stopped: {names}. Check it later (vllm-launch status) and stop it:"
                f" vllm-launch down {names}"
            )
            raise LaunchError("\n\n".join(messages)) from error

    def _stop_unready(self) -> list[str]:
        """Stop the servers that are not ready. Returns the names of those that could not be stopped."""
        left = []
        for name in sorted(self._own.intersection(self.starting)):
            try:
                self._runtime.stop(self.starting[name], _LOADING_GRACE_S)
            except LaunchError:  # only the first error is reported
                left.append(name)
        return left

    def _look(self, http: httpx.Client) -> None:
        states = {instance.name: instance for instance in self._runtime.instances()}
        for name, instance in list(self.starting.items()):
            now = states.get(name, replace(instance, state="exited", ended="and another program removed it"))
            with self._failing(instance.server):
                self._judge(now, http)

    def _judge(self, now: Instance, http: httpx.Client) -> None:
        name, seconds = now.name, time.monotonic() - self._since[now.name]
        if now.state != "running":
            del self.starting[name]
            raise LaunchError(self._explained(now, f"ended while it was starting, {now.ended}"))
        answer = ready.ask(now.server, http)
        if answer.ready and self._kept(now):
            del self.starting[name]
            self._watch(Event(now.server, "ready", now.server.base_url, seconds))
        elif answer.readiness == "unexpected-server":
            raise LaunchError(f"The vLLM server {name!r} is unreachable: {answer.reason}.")
        elif seconds > self._timeout_s:
            raise LaunchError(self._explained(now, self._overdue(now, answer)))
        else:
            problem = _health_problem(now, answer)
            self._watch(Event(now.server, "starts", problem or logs.activity(self._runtime.log(now, 200)), seconds))

    def _overdue(self, instance: Instance, answer: ready.Answer) -> str:
        name, problem = instance.name, _health_problem(instance, answer)
        now = "it has been stopped" if name in self._own else f"to restart it: vllm-launch down {name}, then up"
        why = f" ({problem})" if problem else ""
        return f"was not ready after {self._timeout_s:.0f} seconds{why}; {now}"

    def _kept(self, instance: Instance) -> bool:
        """Make the server outlive its launcher. False: another launcher still has to do that."""
        if instance.name not in self._own and instance.kept:
            return True
        try:
            self._runtime.keep(instance)
        except LaunchError:
            if instance.name in self._own:
                raise
            return False
        return True

    def _explained(self, instance: Instance, what: str) -> str:
        return causes.failure_report(instance.name, what, self._runtime.log(instance, 2000), instance.ended)

    @contextlib.contextmanager
    def _failing(self, server: Server) -> Iterator[None]:
        """Report an error of one server immediately and continue with the others."""
        try:
            yield
        except LaunchError as error:
            self.failures.append(str(error))
            self._watch(Event(server, "failed", str(error)))
            if server.name in self.starting:
                if server.name in self._own:
                    self._runtime.stop(self.starting[server.name], _LOADING_GRACE_S)
                del self.starting[server.name]


def _health_problem(instance: Instance, answer: ready.Answer) -> str:
    """The health problem of a server; empty if it only does not answer yet."""
    return answer.reason if answer.readiness == "unhealthy" else instance.unhealthy


def _step(server: Server, found: Instance | None) -> Step:
    if found is None or found.state != "running":
        return Step(server, "start", found)
    return Step(server, "stay" if found.server.digest == server.digest else "replace", found)


def _differs(differing: Sequence[Step]) -> LaunchError:
    lines = [f"  {step.server.name}: {_differences(step)}" for step in differing]
    return LaunchError(
        "These running servers differ from their descriptions:\n" + "\n".join(lines) + "\n"
        "To replace them: vllm-launch up --replace"
    )


def _differences(step: Step) -> str:
    assert step.found is not None
    old, new = step.found.server.model_dump(), step.server.model_dump()
    differing = [key for key in new if new[key] != old[key]]
    return ", ".join(_difference(key, old[key], new[key]) for key in differing)


def _difference(key: str, old: Any, new: Any) -> str:
    """The difference of one field. For variables, only the names: values may be secrets."""
    if key != "env":
        return f"{key} is {old!r}, described as {new!r}"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return f"env differs in {', '.join(names)}"


def _require_distinct(wanted: Sequence[Server], found: Sequence[Instance]) -> None:
    names = {server.name for server in wanted}
    others = [instance.server for instance in found if instance.name not in names and instance.state != "exited"]
    taken: dict[int, Server] = {}
    for server in (*others, *wanted):
        other = taken.setdefault(server.port, server)
        if other.name != server.name:
            raise LaunchError(
                f"{other.name} and {server.name} have the same port, {server.port}. Give one of them another port"
                + (f", or stop the one that runs: vllm-launch down {other.name}." if other in others else ".")
            )
