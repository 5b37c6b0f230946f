"""The runtime that runs servers as Docker containers, through Docker's SDK.

The engine stores all state. A container has the server's description as a label, so any launcher finds it, and the
server's name, so only one launcher can create it. Before `keep`, the container has no restart policy, and
`container_guard` removes it when this program ends, even by SIGKILL. After `keep`, the engine restarts the container.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import math
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..container import address
from ..servers import Server
from . import container_spec, engine, groups, ports
from .base import Instance, LaunchError, Report, RuntimeName, State
from .records import Records

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_GUARD_SCRIPT = Path(__file__).with_name("container_guard.py")
_PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_STATES: dict[str, State] = {"running": "running", "paused": "running", "restarting": "restarting"}
_LINE_END = re.compile(r"\r\n|\n|\r")


class Containers:
    """The runtime of containers. Raises `LaunchError`."""

    name: RuntimeName = "docker"

    def __init__(self, client: DockerClient | None = None) -> None:
        """`client`: the client of the engine. Default: a client of the engine that the command `docker` uses."""
        self._client = client or engine.connect()

    def prepare(self, server: Server, report: Report) -> None:
        """Raise if the server cannot start, then fetch the image if it is missing."""
        engine.require_reachable(self._client, server, _failure(server))
        if server.needs_gpu:
            engine.require_gpu(self._client, _failure(server))
        self._require_files(server)
        there = self._find(server.name)
        if there is not None and not _is_ours(there):
            raise LaunchError(_taken(server, there))
        self._require_port(server)
        engine.fetch(self._client, server.image, report)

    def start(self, server: Server) -> Instance:
        """Create the container and start it."""
        from docker.errors import APIError

        _guard.watch()
        token = os.environ.get(container_spec.TOKEN_VARIABLE, "").strip()
        options = container_spec.options(server, _guard.launcher, has_token=bool(token))
        with engine.calls(_failure(server)):
            try:
                made = self._client.api.create_container(**options)
            except APIError as error:
                if error.status_code == 409:
                    raise LaunchError(_taken(server, self._find(server.name))) from error
                raise
            container = self._client.containers.get(made["Id"])
            try:
                if token:
                    container.put_archive("/", container_spec.token_archive(token))
                container.start()
                container.reload()
            except BaseException as error:
                with contextlib.suppress(Exception):  # only the first error is reported
                    container.remove(force=True, v=True)
                if isinstance(error, APIError) and _PORT_TAKEN.search(str(error.explanation)):
                    raise LaunchError(self._port_taken(server)) from error
                raise
            return _instance(container)

    def keep(self, instance: Instance) -> None:
        """Detach the container: it outlives this program, and the engine restarts it."""
        with engine.calls(f"The container {instance.name} cannot be detached from its launcher"):
            self._client.api.update_container(instance.id, restart_policy=container_spec.RESTARTED)

    def stop(self, instance: Instance, grace: float) -> None:
        """Stop and remove the container. Its named volumes stay."""
        from docker.errors import APIError, NotFound

        with engine.calls(f"The container {instance.name} cannot be stopped"), contextlib.suppress(NotFound):
            container = self._client.containers.get(instance.id)
            container.stop(timeout=math.ceil(grace))
            try:
                container.remove(v=True, force=True)
            except APIError as error:
                if error.status_code != 409:  # 409: another program is removing it
                    raise

    def instances(self) -> list[Instance]:
        """The containers of all calls of vllm-launch."""
        with engine.calls("The containers cannot be listed"):
            found = self._client.containers.list(
                all=True, filters={"label": container_spec.SERVER_LABEL}, ignore_removed=True
            )
        return sorted(map(_instance, found), key=lambda instance: instance.name)

    def log(self, instance: Instance, lines: int | None = None) -> str:
        """The container's log; empty if the container is gone."""
        from docker.errors import NotFound

        with engine.calls(f"The log of {instance.name} cannot be read"):
            try:
                container = self._client.containers.get(instance.id)
                written = container.logs(tail="all" if lines is None else lines)
            except NotFound:
                return ""
        return written.decode("utf-8", "replace")

    def follow(self, instance: Instance, lines: int | None = None) -> Iterator[str]:
        """The lines of the log until the container ends. Each update of a progress bar is a line."""
        with engine.calls(f"The log of {instance.name} cannot be followed"):
            container = self._client.containers.get(instance.id)
            stream = container.logs(stream=True, follow=True, tail="all" if lines is None else lines)
            try:
                yield from _lines(stream)
            finally:
                stream.close()
            self._client.ping()  # raises if the engine is gone: the container may still run

    def _find(self, name: str) -> Container | None:
        from docker.errors import NotFound

        with engine.calls(f"The container {name} cannot be found"):
            try:
                return self._client.containers.get(name)
            except NotFound:
                return None

    def _require_files(self, server: Server) -> None:
        server.key()
        folders = container_spec.folders(server)
        missing = [str(folder) for folder in folders if not folder.exists()] if engine.is_local(self._client) else []
        if missing:
            raise LaunchError(
                f"{_failure(server)}: it mounts {', '.join(missing)}, which does not exist."
                " Create it, or correct the path."
            )

    def _require_port(self, server: Server) -> None:
        bound_to = address(server)
        holder = self._holder(server.port)
        if holder is not None and holder.name == server.name:
            return  # the port becomes free when the server is replaced
        if holder is not None or (engine.is_local(self._client) and _is_listened_on(bound_to, server.port)):
            raise LaunchError(self._port_taken(server))

    def _port_taken(self, server: Server) -> str:
        holder = self._holder(server.port)
        here = holder is None and engine.is_local(self._client)
        ours = _process_on(server.port) if here else holder.name if holder is not None and _is_ours(holder) else None
        if ours is not None:
            by, free = f"the server {ours}", f"stop it: vllm-launch down {ours}"
        elif holder is None:
            by = ports.listener(server.port) if here else ""
            by, free = by or "a program outside containers", "stop it"
        else:
            by, free = f"the container {holder.name}", f"stop it: docker stop {holder.name}"
        return f"{_failure(server)}: its port {server.port} is taken by {by}. Give it another port, or {free}."

    def _holder(self, port: int) -> Container | None:
        """The running container that publishes this port of the machine."""
        with engine.calls("The containers cannot be listed"):
            for container in self._client.containers.list(ignore_removed=True):
                published = container.attrs["NetworkSettings"]["Ports"] or {}
                if any(
                    str(port) == binding["HostPort"] for bindings in published.values() for binding in bindings or ()
                ):
                    return container
        return None


class _Guard:
    """The process that removes what is not ready when this program is gone. One for the program."""

    def __init__(self) -> None:
        self.launcher = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self) -> None:
        """Have it there."""
        if self._process is None or self._process.poll() is not None:
            label = f"{container_spec.LAUNCHER_LABEL}={self.launcher}"
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_GUARD_SCRIPT), label],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not reach the guard
            )


_guard = _Guard()


def _failure(server: Server) -> str:
    return f"The vLLM server {server.name!r} can't be started"


def _is_ours(container: Container) -> bool:
    return container_spec.SERVER_LABEL in container.labels


def _taken(server: Server, there: Container | None) -> str:
    """The error for a name in use. `there` is None: the engine is creating that container for another launcher."""
    if there is None or _is_ours(there):
        return (
            f"{_failure(server)}: it is there already, by another launcher (`vllm-launch status`)."
            f" Wait for that launcher, or stop the server: vllm-launch down {server.name}"
        )
    project = there.labels.get("com.docker.compose.project")
    remove = f"docker compose --project-name {project} down" if project else f"docker rm -f {server.name}"
    return (
        f"{_failure(server)}: a container of this name is there that this launcher did not start."
        f" Remove it ({remove}), or rename the server."
    )


def _instance(container: Container) -> Instance:
    state: dict[str, Any] = container.attrs["State"]
    name = str(container.name)
    runs = _STATES.get(state["Status"], "exited")
    return Instance(
        server=container_spec.described(name, container.labels),
        runtime="docker",
        state=runs,
        id=str(container.id)[:12],
        started_at=_seconds(state["StartedAt"] if state["Status"] != "created" else container.attrs["Created"]),
        ended="" if runs == "running" else ended(state),
        kept=container.attrs["HostConfig"]["RestartPolicy"]["Name"] not in ("", container_spec.NOT_RESTARTED["Name"]),
        unhealthy=unhealthy(state),
        restarts=int(container.attrs.get("RestartCount") or 0),
    )


def ended(state: dict[str, Any]) -> str:
    """A description of the container's exit, from the engine's state."""
    if state["Status"] == "created":
        return f"before it ran ({state['Error']})" if state.get("Error") else "before it ran"
    if state.get("OOMKilled"):
        return "by SIGKILL: it was out of memory"
    status = int(state["ExitCode"])
    by_signal = 128 < status <= 128 + signal.SIGRTMAX
    return groups.how_it_ended(128 - status if by_signal else status)


def unhealthy(state: dict[str, Any]) -> str:
    """The error of the container's health check, from the engine's state; empty without an error."""
    if state["Status"] == "paused":
        return "its container is paused (docker unpause)"
    health = state.get("Health") or {}
    if state["Status"] != "running" or health.get("Status") != "unhealthy":
        return ""
    output = str(health["Log"][-1]["Output"]).strip().splitlines() if health.get("Log") else []
    failed = f"{health.get('FailingStreak', 0)} health checks in a row have failed"
    return f"{failed}: {output[-1]}" if output else failed


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _process_on(port: int) -> str | None:
    """The name of the server that runs as a process on this port."""
    with contextlib.suppress(LaunchError):  # an invalid record of another server is not an error here
        return Records().on_port(port)
    return None


def _is_listened_on(host: str, port: int) -> bool:
    refusal = ports.refusal(host, port)
    return refusal is not None and refusal.errno == errno.EADDRINUSE  # the engine reports other errors


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    for chunk in chunks:
        *whole, rest = _LINE_END.split(rest + decode(chunk))
        yield from whole
    if rest:
        yield rest
