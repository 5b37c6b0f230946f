"""`python -m ollama_compat health`: output and exit status."""

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


def health_result(status: str, *servers: dict[str, Any]) -> dict[str, Any]:
    return {"backend_mode": "vllm", "status": status, "circuit_breaker": "closed", "servers": list(servers)}


INVALID_TIMEOUTS = ("soon", "0", "-1", "nan", "inf", "-inf", "1e999")


class FakeClient:
    """A client whose health check returns `result`."""

    result = health_result("healthy", server("http://a:8001"))
    timeouts: ClassVar[list[float]] = []

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def health(self, timeout: float) -> dict[str, Any]:
        self.timeouts.append(timeout)
        return self.result


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    monkeypatch.setattr(command, "Client", FakeClient)
    monkeypatch.setattr(FakeClient, "timeouts", [])
    return FakeClient


def set_result(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]) -> None:
    monkeypatch.setattr(FakeClient, "result", result)


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
def test_exit_status_follows_health_status(
    monkeypatch: pytest.MonkeyPatch, status: str, options: list[str], exit_status: int
) -> None:
    set_result(monkeypatch, health_result(status, server("http://a:8001")))
    assert main(["health", *options]) == exit_status


def test_health_prints_one_line_per_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = health_result(
        "degraded",
        server("http://a:8001", models=("smol", "exaone")),
        server("http://b:8002", error="refused"),
        server("http://c:8003", models=()),
    )
    set_result(monkeypatch, result)
    main(["health"])
    assert capsys.readouterr().out.splitlines() == [
        "degraded  (BACKEND_MODE=vllm, circuit breaker closed)",
        "  http://a:8001  healthy: serves smol, exaone",
        "  http://b:8002  unhealthy: refused",
        "  http://c:8003  healthy: serves no models",
    ]


@pytest.mark.parametrize("entry", [server("http://a", "\x1b[2Jgone"), server("http://a", models=("\x1b[2J",))])
def test_text_output_does_not_contain_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: dict[str, Any]
) -> None:
    set_result(monkeypatch, health_result("healthy", entry))
    main(["health"])
    assert "\x1b" not in capsys.readouterr().out


def test_json_option_prints_result_as_ascii_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = health_result("healthy", server("http://a:8001", models=("한국어",)))
    set_result(monkeypatch, result)
    main(["health", "--json"])
    out = capsys.readouterr().out
    assert json.loads(out) == result
    assert out.isascii(), "any terminal encoding can print it"


def test_characters_outside_the_terminal_encoding_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    set_result(monkeypatch, health_result("healthy", server("http://a:8001", models=("한국어", "half \ud800"))))
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii", write_through=True))
    assert main(["health"]) == 0
    assert output.getvalue().splitlines()[1] == b"  http://a:8001  healthy: serves ???, half ?"


@pytest.mark.parametrize(("options", "seconds"), [([], 2.0), (["--timeout", "0.5"], 0.5)])
def test_timeout_option_sets_timeout_of_health_check(
    client: type[FakeClient], options: list[str], seconds: float
) -> None:
    main(["health", *options])
    assert client.timeouts == [seconds]


@pytest.mark.parametrize(
    "arguments", [[], ["doctor"], ["health", "--nope"], *(["health", "--timeout", text] for text in INVALID_TIMEOUTS)]
)
def test_invalid_command_line_prints_usage_and_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m ollama_compat" in capsys.readouterr().err


def test_invalid_settings_are_printed_and_no_request_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("BACKEND_MODE", "vlm")
    assert main(["health"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "BACKEND_MODE (in the environment) has the invalid value 'vlm'; allowed: 'ollama' or 'vllm'" in shown.err


def test_package_runs_as_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ollama_compat", "--help"])
    monkeypatch.delitem(sys.modules, "ollama_compat.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("ollama_compat", run_name="__main__")
    assert caught.value.code == 0
    assert "health" in capsys.readouterr().out
