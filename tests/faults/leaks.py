"""Detects what a client leaves behind: open sockets, running threads, asyncio tasks.

    with Leaks():                # in a coroutine `async with Leaks()`, which also sees the tasks of its loop
        ...

At the end it waits until everything new is gone, because a connection may still be closing. The error names the rest.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_S = 0.02
_PROCESS = Path("/proc/self")
_STATES = (
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT"),
    *("LAST_ACK", "LISTEN", "CLOSING"),
)
"""The states of a TCP connection, from 1 on, as /proc/net/tcp numbers them (Linux, include/net/tcp_states.h)."""


class Leaks:
    """Raises `AssertionError` if its block leaves something behind. An error of the block itself takes precedence."""

    def __init__(self, patience: float = 60.0) -> None:
        """`patience`: how long to wait until everything is gone (seconds)."""
        self._patience = patience

    def __enter__(self) -> Self:
        self._before = _everything()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        until = time.monotonic() + self._patience
        while kind is None and self._left(until):
            time.sleep(_POLL_S)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        until = time.monotonic() + self._patience
        while kind is None and self._left(until):
            await asyncio.sleep(_POLL_S)

    def _left(self, until: float) -> bool:
        """Whether something is left. Raises `AssertionError` after the deadline."""
        left = [text for key, text in _everything().items() if key not in self._before]
        if left and time.monotonic() > until:
            raise AssertionError(f"left open after {self._patience:g} s:\n" + "\n".join(f"  {text}" for text in left))
        return bool(left)


def _everything() -> dict[object, str]:
    """Everything that can leak, with a description."""
    return {**dict(_sockets()), **dict(_threads()), **dict(_tasks())}


def _sockets() -> Iterator[tuple[object, str]]:
    connections = dict(_connections())
    for number in os.listdir(_PROCESS / "fd"):
        try:
            target = os.readlink(_PROCESS / "fd" / number)
        except FileNotFoundError:  # the descriptor of the listing, or closed meanwhile
            continue
        if target.startswith("socket:"):
            inode = target.removeprefix("socket:[").removesuffix("]")
            yield target, f"socket {number}: {connections.get(inode, 'not TCP, or not connected')}"


def _connections() -> Iterator[tuple[str, str]]:
    """The TCP connections of this network namespace, by the inode of the socket."""
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = _PROCESS / "net" / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, state, *_, inode = line.split()[:10]
            yield inode, f"{_address(local, family)} -> {_address(remote, family)} {_STATES[int(state, 16) - 1]}"


def _address(text: str, family: socket.AddressFamily) -> str:
    """`0100007F:1F41` as `127.0.0.1:8001`: the address in words of the machine's own byte order."""
    digits, port = text.split(":")
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    return f"{socket.inet_ntop(family, struct.pack(f'={len(words)}I', *words))}:{int(port, 16)}"


def _threads() -> Iterator[tuple[object, str]]:
    for thread in threading.enumerate():
        yield thread, f"thread {thread.name}{' (daemon)' if thread.daemon else ''}"


def _tasks() -> Iterator[tuple[object, str]]:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs here
        return
    for task in tasks:
        yield task, f"task {task.get_name()}: {task.get_coro()!r}"
