"""Ports: which are free, and who has the one that is not."""

from __future__ import annotations

import errno
import os
import socket

from vllm_launch.runtimes.ports import free_ports, listener, refusal


def test_free_ports_differ():
    assert len(set(free_ports(5))) == 5


def test_a_taken_port_and_who_has_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal("127.0.0.1", port).errno == errno.EADDRINUSE
        assert refusal("0.0.0.0", port).errno == errno.EADDRINUSE
        assert listener(port).startswith(f"process {os.getpid()} (")
    assert refusal("127.0.0.1", port) is None
    assert listener(port) == ""


def test_an_address_that_is_not_this_machines():
    assert refusal("192.0.2.1", 8001).errno == errno.EADDRNOTAVAIL
