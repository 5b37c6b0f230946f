"""What `Leaks` finds, and what it lets pass."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from .leaks import Leaks


def test_what_was_there_before_and_what_is_closed_again_is_no_leak() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Leaks(0.05):
        socket.create_connection(listener.getsockname()).close()
        thread = threading.Thread(target=str)
        thread.start()
        thread.join()


def test_an_open_connection_is_named_with_its_addresses_and_state() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection((host, port)) as left:
            own = left.getsockname()[1]
            with pytest.raises(AssertionError, match=f"socket {left.fileno()}: {host}:{own} -> {host}:{port} ESTAB"):
                leaks.__exit__(None, None, None)


def test_a_connection_that_only_the_other_side_has_closed_is_a_leak() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()
            with pytest.raises(AssertionError, match="CLOSE_WAIT"):
                leaks.__exit__(None, None, None)


def test_an_address_of_ipv6_is_readable() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()[:2]), pytest.raises(AssertionError, match=r"-> ::1:\d+ "):
            leaks.__exit__(None, None, None)


def test_a_running_thread_is_named() -> None:
    leaks = Leaks(0.05).__enter__()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="watcher", daemon=True)
    thread.start()
    with pytest.raises(AssertionError, match=r"thread watcher \(daemon\)"):
        leaks.__exit__(None, None, None)
    done.set()
    thread.join()


async def test_an_unfinished_task_is_named() -> None:
    async def lingers() -> None:
        await asyncio.Event().wait()

    task = None
    with pytest.raises(AssertionError, match=r"task poller: .*lingers"):
        async with Leaks(0.05):
            task = asyncio.create_task(lingers(), name="poller")
    assert task is not None
    task.cancel()


async def test_what_ends_within_the_patience_is_no_leak() -> None:
    done = asyncio.Event()

    async def closes() -> None:
        await done.wait()

    async with Leaks():
        task = asyncio.create_task(closes())
        asyncio.get_running_loop().call_later(0.05, done.set)
    assert task.done()


def test_an_error_of_the_block_comes_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leaks = Leaks(0.05).__enter__()
        with socket.create_connection(listener.getsockname()):
            leaks.__exit__(KeyError, KeyError("of the block"), None)
