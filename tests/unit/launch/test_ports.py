"""Free ports, and the process that listens on a port."""

from __future__ import annotations

import errno
import os
import socket

from vllm_launch.runtimes.ports import free_ports, listener, refusal


def test_free_ports_are_different():
    assert len(set(free_ports(5))) == 5


def test_listener_names_the_process_on_a_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal("127.0.0.1", port).errno == errno.EADDRINUSE
        assert refusal("0.0.0.0", port).errno == errno.EADDRINUSE
        assert listener(port).startswith(f"process {os.getpid()} (")
    assert refusal("127.0.0.1", port) is None
    assert listener(port) == ""


def test_refusal_reports_an_address_of_another_machine():
    assert refusal("192.0.2.1", 8001).errno == errno.EADDRNOTAVAIL
