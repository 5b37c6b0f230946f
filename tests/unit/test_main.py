"""`python -m ollama_compat health`: what it prints, and its exit status."""

from __future__ import annotations

import io
import json
import runpy
import sys
from typing import Any, ClassVar

import pytest

from ollama_compat import __main__ as command
from ollama_compat.__main__ import main


def server(url: str, error: str | None = None, models: tuple[str, ...] = ("smol",)) -> dict[str, Any]:
    return {
        "url": url,
        "status": "healthy" if error is None else "unhealthy",
        "circuit_breaker": "closed",
        "models": list(models) if error is None else [],
        "in_flight": 0,
        "error": error,
    }


def found(status: str, *servers: dict[str, Any]) -> dict[str, Any]:
    return {"backend_mode": "vllm", "status": status, "circuit_breaker": "closed", "servers": list(servers)}


SENSELESS = ("soon", "0", "-1", "nan", "inf", "-inf", "1e999")
"""What is no time to wait."""


class Healthy:
    """A client whose servers are as `found` says."""

    found = found("healthy", server("http://a:8001"))
    timeouts: ClassVar[list[float]] = []

    def __enter__(self) -> Healthy:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def health(self, timeout: float) -> dict[str, Any]:
        self.timeouts.append(timeout)
        return self.found


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[Healthy]:
    monkeypatch.setattr(command, "Client", Healthy)
    monkeypatch.setattr(Healthy, "timeouts", [])
    return Healthy


def tells(monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]) -> None:
    monkeypatch.setattr(Healthy, "found", told)


@pytest.mark.parametrize(
    ("status", "options", "exit_status"),
    [
        ("healthy", [], 0),
        ("degraded", [], 0),
        ("unhealthy", [], 1),
        ("healthy", ["--strict"], 0),
        ("degraded", ["--strict"], 1),
        ("unhealthy", ["--strict"], 1),
        ("unhealthy", ["--json"], 1),
        ("degraded", ["--json", "--strict"], 1),
    ],
)
def test_its_exit_status(monkeypatch: pytest.MonkeyPatch, status: str, options: list[str], exit_status: int) -> None:
    tells(monkeypatch, found(status, server("http://a:8001")))
    assert main(["health", *options]) == exit_status


def test_what_it_prints_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = found(
        "degraded",
        server("http://a:8001", models=("smol", "exaone")),
        server("http://b:8002", error="refused"),
        server("http://c:8003", models=()),
    )
    tells(monkeypatch, told)
    main(["health"])
    assert capsys.readouterr().out.splitlines() == [
        "degraded  (BACKEND_MODE=vllm, circuit breaker closed)",
        "  http://a:8001  healthy: serves smol, exaone",
        "  http://b:8002  unhealthy: refused",
        "  http://c:8003  healthy: serves nothing that it tells",
    ]


@pytest.mark.parametrize("told", [server("http://a", "\x1b[2Jgone"), server("http://a", models=("\x1b[2J",))])
def test_a_server_can_do_nothing_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: dict[str, Any]
) -> None:
    tells(monkeypatch, found("healthy", told))
    main(["health"])
    assert "\x1b" not in capsys.readouterr().out


def test_what_it_prints_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = found("healthy", server("http://a:8001", models=("한국어",)))
    tells(monkeypatch, told)
    main(["health", "--json"])
    out = capsys.readouterr().out
    assert json.loads(out) == told
    assert out.isascii(), "whatever the terminal's encoding, and whatever a server says"


def test_what_a_terminal_can_not_show_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    tells(monkeypatch, found("healthy", server("http://a:8001", models=("한국어", "half \ud800"))))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert main(["health"]) == 0
    assert shown.getvalue().splitlines()[1] == b"  http://a:8001  healthy: serves ???, half ?"


@pytest.mark.parametrize(("options", "seconds"), [([], 2.0), (["--timeout", "0.5"], 0.5)])
def test_how_long_it_waits(client: type[Healthy], options: list[str], seconds: float) -> None:
    main(["health", *options])
    assert client.timeouts == [seconds]


@pytest.mark.parametrize(
    "arguments", [[], ["doctor"], ["health", "--nope"], *(["health", "--timeout", text] for text in SENSELESS)]
)
def test_a_wrong_command_line_is_answered_with_how_it_is_used(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m ollama_compat" in capsys.readouterr().err


def test_wrong_settings_are_told_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("BACKEND_MODE", "vlm")
    assert main(["health"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "BACKEND_MODE (in the environment) has the invalid value 'vlm'; allowed: 'ollama' or 'vllm'" in shown.err


def test_it_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ollama_compat", "--help"])
    monkeypatch.delitem(sys.modules, "ollama_compat.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("ollama_compat", run_name="__main__")
    assert caught.value.code == 0
    assert "health" in capsys.readouterr().out
