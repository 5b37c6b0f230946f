"""A second Docker engine that the tests can kill and whose disk they can fill. It needs Linux and root.

Its data is on a small file system in memory. It has its own network bridge, because an engine without one deletes the
`docker0` of the first engine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
from docker import DockerClient
from docker.errors import DockerException

from tests.polling import eventually

from .helpers import unclosed_sockets_ignored

_BRIDGE = "vllm-launch-t"  # 15 characters at most
_DISK_MIB = 48


def unsupported() -> str:
    """The reason why this machine cannot run a second engine; empty if it can."""
    if os.geteuid() != 0:
        return "a second Docker engine needs root"
    missing = [program for program in ("dockerd", "ip", "mount") if shutil.which(program) is None]
    return f"a second Docker engine needs {', '.join(missing)}" if missing else ""


class SecondEngine:
    """The running engine. The end of the context stops it and removes everything."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'docker.sock'}"
        self._folder = folder
        self._data = folder / "data"
        self._exec = folder / "exec"
        self._fill = self._data / "fill"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._data.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(self._data))
        with contextlib.suppress(subprocess.CalledProcessError):  # left by a run that was killed
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
        """Start the engine and wait until it answers."""
        folders = {"data-root": self._data, "exec-root": self._exec, "pidfile": self._folder / "pid"}
        network = ("--bridge", _BRIDGE, "--iptables=false", "--ip-masq=false", "--ip-forward=false")
        containerd = ("--containerd-namespace", _BRIDGE, "--containerd-plugins-namespace", f"{_BRIDGE}-plugins")
        locations = [part for name, path in folders.items() for part in (f"--{name}", str(path))]
        with (self._folder / "log").open("ab") as log:
            command = ["dockerd", "--host", self.url, *locations, *network, *containerd]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        with unclosed_sockets_ignored():
            answers = eventually(self._answers)
        if not answers:
            raise RuntimeError(f"The second engine does not answer:\n{(self._folder / 'log').read_text()[-2000:]}")

    def client(self) -> DockerClient:
        return DockerClient(base_url=self.url, timeout=30)

    def kill(self) -> None:
        """Kill the engine with SIGKILL, as the kernel does when memory runs out."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        # Its containerd ends with it (PDEATHSIG), but not at once, and the next engine would wait for it.
        eventually(lambda: not any("shim" not in program for program in self._left().values()))
        (self._exec / "containerd" / "containerd.pid").unlink(missing_ok=True)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """During the context the disk of the engine is full."""
        with self._fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            self._fill.unlink()

    def _answers(self) -> bool:
        with contextlib.suppress(DockerException):
            docker.DockerClient(base_url=self.url).close()  # requests the engine's version
            return True
        return False

    def _clean(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(120)
        for process in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for mounted in self._mounted():
            _run("umount", "--lazy", mounted)
        _run("ip", "link", "delete", _BRIDGE)

    def _left(self) -> dict[int, str]:
        """The processes of containerd that a killed engine leaves behind, and their programs."""
        found = {}
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                program, *arguments = file.read_text(errors="replace").split("\0")
                if "containerd" in program and any(each.startswith(str(self._exec)) for each in arguments):
                    found[int(file.parent.name)] = program
        return found

    def _mounted(self) -> list[str]:
        """The mount points in the engine's folder, the innermost first."""
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return sorted((place for place in places if place.startswith(str(self._folder))), reverse=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
