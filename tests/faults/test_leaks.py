"""Tests of `Leaks`."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from .leaks import Leaks


def test_leaks_ignores_old_sockets_and_closed_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Leaks():
        socket.create_connection(listener.getsockname()).close()
        thread = threading.Thread(target=str)
        thread.start()
        thread.join()


def test_leaks_names_an_open_connection_with_addresses_and_state() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection((host, port)) as left:
            own = left.getsockname()[1]
            with pytest.raises(AssertionError, match=f"socket {left.fileno()}: {host}:{own} -> {host}:{port} ESTAB"):
                leaks.__exit__(None, None, None)


def test_leaks_reports_a_connection_that_only_the_peer_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()) as connection:
            listener.accept()[0].close()
            assert connection.recv(1) == b""  # the end of the peer's side has arrived
            with pytest.raises(AssertionError, match="CLOSE_WAIT"):
                leaks.__exit__(None, None, None)


def test_leaks_formats_ipv6_addresses() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()[:2]), pytest.raises(AssertionError, match=r"-> ::1:\d+ "):
            leaks.__exit__(None, None, None)


def test_leaks_names_a_running_thread() -> None:
    leaks = Leaks(0.05).__enter__()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="watcher", daemon=True)
    thread.start()
    with pytest.raises(AssertionError, match=r"thread watcher \(daemon\)"):
        leaks.__exit__(None, None, None)
    done.set()
    thread.join()


async def test_leaks_names_an_unfinished_task() -> None:
    async def never_ends() -> None:
        await asyncio.Event().wait()

    task = None
    with pytest.raises(AssertionError, match=r"task poller: .*never_ends"):
        async with Leaks(0.05):
            task = asyncio.create_task(never_ends(), name="poller")
    assert task is not None
    task.cancel()


async def test_leaks_waits_for_tasks_that_end_in_time() -> None:
    done = asyncio.Event()

    async def ends() -> None:
        await done.wait()

    async with Leaks():
        task = asyncio.create_task(ends())
        asyncio.get_running_loop().call_later(0.05, done.set)
    assert task.done()


def test_error_of_the_block_takes_precedence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()):
            leaks.__exit__(KeyError, KeyError("of the block"), None)
