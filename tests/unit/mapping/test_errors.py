"""The constructors of this package's exceptions."""

from __future__ import annotations

import pickle

import httpx
import pytest

from ollama_compat import ResponseError, ServerUnreachable
from ollama_compat.mapping.errors import (
    connections_exhausted,
    redirected,
    server_not_ready,
    server_timeout,
    servers_unreachable,
    unreachable,
)
from ollama_compat.mapping.ollama_errors import response_error

URL = "http://vllm:8001"


@pytest.mark.parametrize(
    "caught_as", [ConnectionError, OSError, httpx.ConnectError, httpx.TransportError, httpx.HTTPError]
)
def test_unreachable_is_caught_by_handlers_of_the_official_client(caught_as: type[Exception]) -> None:
    assert isinstance(unreachable(URL, "smol", "refused"), caught_as)


def test_unreachable_names_server_model_reason_and_what_to_check() -> None:
    error = unreachable(URL, "smol", "Connection refused")
    assert str(error) == (
        f"Failed to connect to the vLLM server at {URL} for model 'smol': Connection refused. Please check that it is "
        f"running, that it has finished loading (GET {URL}/health), and that VLLM_URLS names it."
    )


def test_unreachable_names_no_model_if_the_call_has_none() -> None:
    assert f"{URL}: refused" in str(unreachable(URL, None, "refused"))


def test_nowhere_names_unreachable_and_reachable_servers() -> None:
    text = str(servers_unreachable({"http://a": "", "http://b": "did not answer"}, ("http://c",), "smol"))
    start = "Failed to connect to the vLLM servers http://a, http://b (it did not answer) for model 'smol'."
    assert text.startswith(start)
    assert "The reachable servers do not serve it (http://c)." in text


@pytest.mark.parametrize(
    "error",
    [
        unreachable(URL, "smol", "refused"),
        server_timeout(URL, 5.0, "smol"),
        connections_exhausted(URL, "Too many open files"),
        server_not_ready(URL, 503, "loading", 1.0),
        response_error("no", 400),
    ],
)
def test_error_can_be_pickled(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))).startswith(str(error).partition(" (")[0])


def test_errors_are_instances_of_the_official_exceptions() -> None:
    assert isinstance(ServerUnreachable("x"), ConnectionError)
    assert isinstance(response_error("x"), ResponseError)


def test_redirected_shortens_the_location_and_removes_control_characters() -> None:
    text = str(redirected("http://a:8001/v1/models", "http://evil\x1b[31m/" + "k" * 50_000))
    assert "http://a:8001/v1/models redirects to http://evil" in text
    assert text.isprintable()
    assert len(text) < 500
