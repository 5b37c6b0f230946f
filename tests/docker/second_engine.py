"""A Docker engine of these tests' own, to be killed and to have its disk filled. It needs Linux and root.

Its data lies on a small file system in memory. Its network is a bridge of its own: an engine that is told to have none
takes the first engine's `docker0` away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
from docker import DockerClient
from docker.errors import DockerException

_BRIDGE = "vllm-launch-t"  # 15 characters at most
_DISK_MIB = 48
_STARTS_WITHIN_S = 30.0


def why_not() -> str:
    """Why this machine can't have one; empty where it can."""
    if os.geteuid() != 0:
        return "a second Docker engine needs root"
    missing = [program for program in ("dockerd", "ip", "mount") if shutil.which(program) is None]
    return f"a second Docker engine needs {', '.join(missing)}" if missing else ""


class SecondEngine:
    """The engine, running; `with` stops it and leaves nothing of it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'docker.sock'}"
        self._folder = folder
        self._data = folder / "data"
        self._fill = self._data / "fill"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._data.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(self._data))
        with contextlib.suppress(subprocess.CalledProcessError):  # one that was killed has left it
            _run("ip", "link", "add", _BRIDGE, "type", "bridge")
            _run("ip", "address", "add", "172.31.250.1/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        try:
            self.start()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clean()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        folders = {"data-root": self._data, "exec-root": self._folder / "exec", "pidfile": self._folder / "pid"}
        network = ("--bridge", _BRIDGE, "--iptables=false", "--ip-masq=false", "--ip-forward=false")
        apart = ("--containerd-namespace", _BRIDGE, "--containerd-plugins-namespace", f"{_BRIDGE}-plugins")
        places = [part for name, path in folders.items() for part in (f"--{name}", str(path))]
        with (self._folder / "log").open("ab") as log:
            command = ["dockerd", "--host", self.url, *places, *network, *apart]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The second engine does not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def client(self) -> DockerClient:
        return DockerClient(base_url=self.url, timeout=30)

    def kill(self) -> None:
        """As the kernel does it when memory runs out."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Not a byte is left for its data meanwhile."""
        with self._fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            self._fill.unlink()

    def _answers(self) -> bool:
        with contextlib.suppress(DockerException):
            client = docker.DockerClient(base_url=self.url)
            answers: bool = client.ping()
            client.close()
            return answers
        return False

    def _clean(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
        for left in self._folder.glob("exec/**/*.pid"):  # its containerd, where it was killed itself
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.kill(int(left.read_text()), signal.SIGKILL)
        _run("umount", "--lazy", str(self._data))
        _run("ip", "link", "delete", _BRIDGE)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
