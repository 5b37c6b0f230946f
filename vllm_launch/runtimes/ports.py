"""Finds free ports of this machine, and the process that listens on a port."""

from __future__ import annotations

import contextlib
import glob
import os
import socket
from pathlib import Path

from ..servers import HOST

_LISTENS = "0A"  # the kernel's TCP_LISTEN, as /proc/net/tcp writes it


def free_ports(count: int) -> list[int]:
    """Different ports on which no process listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def refusal(host: str, port: int) -> OSError | None:
    """The error of listening on this address; None if it is possible."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # The server does the same: a port with connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def listener(port: int) -> str:
    """The process that listens on a port, as `process 12 (python3)`; empty if unknown, as for another user's."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for link in glob.iglob("/proc/[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if os.readlink(link) in sockets:
                process = Path(link).parts[2]
                return f"process {process} ({Path('/proc', process, 'comm').read_text().strip()})"
    return ""


def _listening(table: str, port: int) -> list[str]:
    """The inodes of the sockets that listen on the port (proc(5), /proc/net/tcp)."""
    try:
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port]
