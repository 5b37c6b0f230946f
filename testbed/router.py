"""vLLM's router in `.testbed/router`, installed from PyPI with uv at its first use.

with router.running([chat.url, other.url], log) as url:
    ollama_compat.Client(backend_mode="vllm", vllm_urls=url)
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from testbed import environment
from testbed.command import CommandError, run
from testbed.lock import alone
from testbed.paths import HOME, TestbedError, megabytes
from vllm_launch import free_ports, router
from vllm_launch.progress import step
from vllm_launch.runtimes import groups

_FOLDER = HOME / "router"
_STAMP = _FOLDER / "complete.txt"
_READY_WITHIN_S = 300.0
_ENDS_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.1


def prepare() -> Path:
    """The router's command. Installs it if it is missing. Raises `TestbedError` if this machine is not supported."""
    if not _is_complete():
        with alone():
            if not _is_complete():
                _install()
    return _command()


@contextlib.contextmanager
def running(workers: Sequence[str], log: Path, policy: str = router.POLICY) -> Iterator[str]:
    """Run a router before `workers` until the context ends. Yields its base URL. Overwrites `log`."""
    command = prepare()
    port, metrics_port = free_ports(2)
    arguments = router.arguments(workers, port, policy=policy, metrics_port=metrics_port)
    log.parent.mkdir(parents=True, exist_ok=True)
    # The servers are on this machine, so no proxy is used.
    process = groups.spawn([str(command), *arguments], {**os.environ, "NO_PROXY": "127.0.0.1"}, log)
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(url, process.poll, log)
        yield url
    finally:
        groups.ask_to_end(process.pid)
        groups.await_end(process.pid, time.monotonic() + _ENDS_WITHIN_S, process.poll)
        process.communicate()


def _await_ready(url: str, ended: Callable[[], int | None], log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    with httpx.Client(trust_env=False) as http:
        while time.monotonic() < deadline and ended() is None:
            with contextlib.suppress(httpx.HTTPError):
                if http.get(url + router.READINESS).is_success:
                    return
            time.sleep(_LOOK_EVERY_S)
    raise TestbedError(f"vLLM's router is not ready. The last lines of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-12:])


def _install() -> None:
    python = str(_FOLDER / "bin" / "python")
    # Without a wheel, the installation would compile for minutes and need a Rust compiler.
    install = [environment.uv(), "pip", "install", "--quiet", "--only-binary", "vllm-router", "--python", python]
    try:
        with step("Installing vLLM's router (about 30 MB to download)") as row:
            run([environment.uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(_FOLDER)])
            run([*install, router.REQUIREMENT], on_line=row.note)
            run([str(_command()), "--help"])
            row.done(megabytes(_FOLDER))
    except CommandError as error:
        raise environment.explain(error) from error
    _STAMP.write_text(_stamp())


def _is_complete() -> bool:
    return _STAMP.exists() and _STAMP.read_text() == _stamp() and os.access(_command(), os.X_OK)


def _command() -> Path:
    return _FOLDER / "bin" / router.COMMAND


def _stamp() -> str:
    return f"Python {platform.python_version()}\n{router.REQUIREMENT}\n"
