"""The entry point and the health check of a container. On a real engine: tests/docker/test_compose.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vllm_launch import container
from vllm_launch.runtimes.ports import free_ports
from vllm_launch.servers import Server

SERVER = Server(name="mine", model="a/b", port=9001, host="127.0.0.1")


def started(key_file: Path) -> subprocess.CompletedProcess[str]:
    """The entry point with a program that prints its key and its arguments, and with another path of the key file."""
    tells = "import os, sys; print(os.getenv('VLLM_API_KEY'), *sys.argv[1:])"
    server = SERVER.model_copy(update={"entrypoint": (sys.executable, "-c", tells)})
    entrypoint = [part.replace(container.KEY_FILE, str(key_file)) for part in container.entrypoint(server)]
    return subprocess.run([*entrypoint, "--a", "b c"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("written", [b" s3cret\n", b"\xef\xbb\xbfs3cret\r\n"], ids=["blanks", "mark of UTF-8"])
def test_entrypoint_exports_the_key_and_passes_the_arguments(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "key").write_bytes(written)
    assert SERVER.model_copy(update={"api_key_file": tmp_path / "key"}).key() == "s3cret"
    assert started(tmp_path / "key").stdout == "s3cret --a b c\n"


@pytest.mark.parametrize("key_file", [Path("/nowhere/key"), Path("/dev/null")], ids=str)
def test_entrypoint_sets_no_key_without_a_file(key_file: Path) -> None:
    assert started(key_file).stdout == "None --a b c\n"


def test_entrypoint_fails_for_a_blank_key_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    done = started(tmp_path / "key")
    assert (done.returncode, done.stdout, done.stderr) == (78, "", "The file of the API key is empty.\n")


def test_command_listens_on_all_addresses_and_vllms_port() -> None:
    assert container.command(SERVER)[:4] == ["--host", "0.0.0.0", "--port", "8000"]


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


def checked(port: int) -> int:
    server = SERVER.model_copy(update={"entrypoint": (sys.executable,)})
    command = [part.replace(f" {container.PORT},", f" {port},") for part in container.health_check(server).command]
    proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(command, env=proxied, capture_output=True, check=False).returncode


def test_health_check_passes_on_200_and_ignores_proxies() -> None:
    with answering(200) as port:
        assert checked(port) == 0


def test_health_check_fails_when_the_engine_has_died() -> None:
    with answering(503) as port:
        assert checked(port) != 0


def test_health_check_fails_when_the_server_does_not_listen() -> None:
    assert checked(free_ports(1)[0]) != 0
