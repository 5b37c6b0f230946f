"""Real servers in threads, for what a mock transport can't do: a connection that is cut, or silent, or not there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def serving(answers: Mapping[str, bytes | None]) -> Iterator[str]:
    """A server that sends the bytes of a path as they are and closes the connection; None: it says nothing.

    Yields its URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as connections:
        thread = threading.Thread(target=_accept, args=(listener, answers, connections))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, answers: Mapping[str, bytes | None], connections: contextlib.ExitStack) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # shut down
            return
        connections.callback(connection.close)
        answer = answers.get(_path(connection), b"")
        if answer is not None:
            connection.sendall(answer)
            connection.close()


def _path(connection: socket.socket) -> str:
    """Read a request to its end; "" where none comes."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    lines = head.decode().splitlines() or ["no request"]
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return lines[0].split()[1]


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A URL at which nobody takes connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def http(body: bytes, status: str = "200 OK", *, chunked: bool = False) -> bytes:
    """A reply on the wire; `chunked` leaves the last chunk out, as where a server dies."""
    if chunked:
        return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
