"""`health()` and `python -m ollama_compat health`: their reports, and their timeouts with servers that do not reply."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, cycle
from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.__main__ import main

from .caller import Caller
from .network import CHAT, END, content_event
from .sockets import HOLD, Pause, Pieces, Server, serves, streamed, unreachable_url, whole

Connect = Callable[..., Caller]
HI: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
HEALTHY = {"/health": whole(b""), "/v1/models": serves("smol", "other"), CHAT: streamed(content_event("Hello"), END)}
LONG_S = 30.0
"""A timeout that no test reaches (seconds)."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(HEALTHY) as server:
        yield server


@pytest.fixture
def unreachable() -> Iterator[str]:
    with unreachable_url() as url:
        yield url


@pytest.fixture
def to(connect: Connect) -> Connect:
    """`connect` to servers at these URLs."""
    return lambda *urls, **settings: connect(vllm_urls=urls or None, transport=None, trust_env=False, **settings)


def test_health_is_healthy_when_all_servers_are(to: Connect, server: Server) -> None:
    with Server(HEALTHY) as second:
        assert to(server.url, second.url).health(LONG_S) == {
            "backend_mode": "vllm",
            "status": "healthy",
            "circuit_breaker": "closed",
            "servers": [
                {
                    "url": url,
                    "status": "healthy",
                    "circuit_breaker": "closed",
                    "models": ["smol", "other"],
                    "in_flight": 0,
                    "error": None,
                }
                for url in (server.url, second.url)
            ],
        }


def test_health_is_degraded_when_some_servers_are_unhealthy(to: Connect, server: Server, unreachable: str) -> None:
    found = to(server.url, unreachable).health(LONG_S)
    assert (found["status"], [one["status"] for one in found["servers"]]) == ("degraded", ["healthy", "unhealthy"])
    assert found["servers"][1]["error"].startswith(f"Failed to connect to the vLLM server at {unreachable}")


def test_health_is_unhealthy_when_no_server_is_healthy(to: Connect, unreachable: str) -> None:
    assert to(unreachable).health(LONG_S)["status"] == "unhealthy"


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_server_is_unhealthy_when_either_endpoint_fails(to: Connect, server: Server, path: str) -> None:
    server.answers[path] = whole({"error": {"message": "engine is dead"}}, "503 Service Unavailable")
    found = to(server.url).health(LONG_S)
    assert found["status"] == "unhealthy"
    assert found["servers"][0]["error"] == f"engine is dead (status 503 from {server.url})"


def test_server_is_unhealthy_when_it_lists_no_models(to: Connect, server: Server) -> None:
    server.answers["/v1/models"] = whole(b"<html>hello</html>")
    (report,) = to(server.url).health(LONG_S)["servers"]
    assert (report["status"], report["models"]) == ("unhealthy", [])
    assert f"{server.url} sent a malformed reply" in report["error"]


def dripping(head: bytes, piece: bytes) -> Pieces:
    """An endless reply whose pieces each arrive in time."""
    return chain([head], cycle((piece, Pause(0.05))))


UNENDING: dict[str, Callable[[Any], Pieces]] = {
    "nothing": lambda _: (HOLD,),
    "headers": lambda _: dripping(b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n"),
    "body": lambda _: dripping(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" "),
    "error": lambda _: dripping(b"HTTP/1.1 500 Broken\r\nContent-Type: application/json\r\n\r\n", b" "),
}


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_health_returns_within_its_timeout_when_replies_do_not_end(to: Connect, server: Server, path: str) -> None:
    with ExitStack() as stack:
        unending = [stack.enter_context(Server({**HEALTHY, path: reply})) for reply in UNENDING.values()]
        report = to(*(each.url for each in unending), server.url).health(3.0)
    *ill, well = report["servers"]
    assert report["status"] == "degraded"
    assert [each["status"] for each in ill] == ["unhealthy"] * len(UNENDING)
    assert ["3 s" in each["error"] for each in ill] == [True] * len(UNENDING)
    assert well["status"] == "healthy"


def test_health_reports_circuit_breakers_and_does_not_change_them(to: Connect, server: Server) -> None:
    caller = to(server.url)
    server.answers[CHAT] = whole({"error": {"message": "broken"}}, "500 Internal Server Error")
    for _ in range(5):
        with pytest.raises(ResponseError, match="broken"):
            caller.chat(**HI)
    for _ in range(2):
        found = caller.health(LONG_S)
        assert (found["status"], found["circuit_breaker"]) == ("degraded", "open")
        assert (found["servers"][0]["status"], found["servers"][0]["circuit_breaker"]) == ("healthy", "open")
    assert len(server.posts(CHAT)) == 5


def test_health_opens_no_circuit(to: Connect, unreachable: str) -> None:
    caller = to(unreachable)
    for _ in range(6):
        assert caller.health(LONG_S)["circuit_breaker"] == "closed"


def test_health_counts_the_calls_in_flight(to: Connect, server: Server) -> None:
    server.answers[CHAT] = streamed(content_event("Hel"), HOLD, content_event("lo"), END)
    caller = to(server.url)
    stream = caller.open("chat", **HI)
    caller.next(stream)
    assert caller.health(LONG_S)["servers"][0]["in_flight"] == 1
    caller.close(stream)
    assert caller.health(LONG_S)["servers"][0]["in_flight"] == 0


def test_health_checks_ollama_in_mode_ollama(to: Connect) -> None:
    with Server({"/api/version": whole({"version": "0.33"})}) as server:
        found = to(backend_mode="ollama", host=server.url).health(LONG_S)
        assert (found["backend_mode"], found["status"]) == ("ollama", "healthy")
        assert [request.path for request in server.requests] == ["/api/version"]
        assert found["servers"][0]["url"] == server.url


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            whole({"error": "unauthorized"}, "401 Unauthorized"),
            "unauthorized ({url} rejected the API key: check OLLAMA_API",
        ),
        (
            whole(b"", "307 Moved", Location="http://x.example/"),
            "{url} redirects to http://x.example/: Please check OLL",
        ),
        (whole(b"\x00", Content_Encoding="gzip"), "{url} sent a malformed reply: it is compressed (gzip)"),
    ],
)
def test_health_error_of_ollama_names_its_url(to: Connect, answer: Pieces, text: str) -> None:
    with Server({"/api/version": answer}) as server:
        (report,) = to(backend_mode="ollama", host=server.url).health(LONG_S)["servers"]
        assert report["error"].startswith(text.format(url=server.url))
        assert "VLLM" not in report["error"]


def test_health_hides_a_key_that_a_server_returns_as_a_model_name(to: Connect, server: Server) -> None:
    key = "sk-vllm/0123456789"
    server.answers["/v1/models"] = serves("smol", f"you sent {key}")
    assert to(server.url, vllm_api_key=key).health(LONG_S)["servers"][0]["models"] == ["smol", "you sent [key]"]


# python -m ollama_compat health


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BACKEND_MODE": "vllm", "NO_PROXY": "*", **variables}
    return subprocess.run(
        [sys.executable, "-m", "ollama_compat", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, which saves a second; returns exit status, stdout and stderr."""

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        for name, value in {"BACKEND_MODE": "vllm", "NO_PROXY": "*", **variables}.items():
            monkeypatch.setenv(name, value)
        try:
            status = main(arguments)
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run


def test_command_succeeds_when_all_servers_are_healthy(server: Server) -> None:
    done = command("health", "--timeout", str(LONG_S), VLLM_URLS=server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"healthy  (BACKEND_MODE=vllm, circuit breaker closed)\n  {server.url}  healthy: serves smol, other\n"
    )


def test_command_succeeds_when_degraded_unless_strict(run_main: Run, server: Server, unreachable: str) -> None:
    urls = f"{server.url},{unreachable}"
    status, _, _ = run_main("health", "--timeout", str(LONG_S), VLLM_URLS=urls)
    assert status == 0
    status, stdout, _ = run_main("health", "--timeout", str(LONG_S), "--strict", VLLM_URLS=urls)
    assert (status, stdout.split()[0]) == (1, "degraded")


def test_command_fails_when_no_server_is_healthy(run_main: Run, unreachable: str) -> None:
    status, stdout, _ = run_main("health", "--timeout", str(LONG_S), "--json", VLLM_URLS=unreachable)
    assert status == 1
    assert json.loads(stdout)["status"] == "unhealthy"


@pytest.mark.parametrize("what", UNENDING)
def test_command_ends_within_its_timeout_when_a_reply_does_not_end(run_main: Run, server: Server, what: str) -> None:
    server.answers["/health"] = UNENDING[what]
    status, _, stderr = run_main("health", "--timeout", "0.3", VLLM_URLS=server.url)
    assert (status, stderr) == (1, "")


def test_command_prints_the_invalid_setting(run_main: Run) -> None:
    status, stdout, stderr = run_main("health", BACKEND_MODE="vlm")
    assert (status, stdout) == (2, "")
    assert stderr == "BACKEND_MODE (in the environment) has the invalid value 'vlm'; allowed: 'ollama' or 'vllm'\n"


WRONG = [
    ("SSL_CERT_FILE", "/there/is/none.pem", "No such file or directory): please check SSL_CERT_FILE"),
    ("SSL_CERT_FILE", __file__, "no certificate or crl found"),
    ("OLLAMA_HOST", "http://[", "please check OLLAMA_HOST"),
    ("OLLAMA_HOST", "host:99999999", "please check OLLAMA_HOST"),
    ("OLLAMA_HOST", "http://\x01", "please check OLLAMA_HOST"),
    ("HTTP_PROXY", "carrier-pigeon://user:secret@x", "please check HTTP_PROXY"),
    ("OLLAMA_API_KEY", "sk-top\u00e9secret", "OLLAMA_API_KEY contains characters that an HTTP header cannot carry"),
]
"""Variables with which the import of the official client fails."""


@pytest.mark.parametrize(("variable", "value", "text"), WRONG)
def test_command_prints_the_invalid_environment_variable(variable: str, value: str, text: str) -> None:
    done = command("health", **{"NO_PROXY": "", variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


def test_import_raises_the_official_error_with_a_note_about_the_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ollama_compat"],
        env={**os.environ, "SSL_CERT_FILE": "/there/is/none.pem"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    official, note = done.stderr.splitlines()[-2:]
    assert official.startswith("FileNotFoundError: ")
    assert note.endswith("please check SSL_CERT_FILE and SSL_CERT_DIR.")


@pytest.mark.parametrize("arguments", [(), ("helth",), ("health", "--timeout", "soon")])
def test_command_prints_its_usage_when_the_arguments_are_wrong(run_main: Run, arguments: tuple[str, ...]) -> None:
    status, stdout, stderr = run_main(*arguments)
    assert (status, stdout) == (2, "")
    assert "usage: python -m ollama_compat" in stderr
