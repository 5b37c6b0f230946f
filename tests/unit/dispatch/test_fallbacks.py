"""What follows a failed attempt: another server, a retry after a wait, a fallback, or the error."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from ollama import ResponseError

from ollama_compat import ServerUnreachable
from ollama_compat.exceptions import IncompleteReply, ServerNotReady
from ollama_compat.mapping.errors import connections_exhausted, incomplete_reply
from ollama_compat.steps import JsonObject, Reply
from tests.play import MODEL_MISSING, chat_stream, delta, event, refused
from tests.unit.dispatch.client import (
    ANSWER,
    BOOM,
    BUSY,
    CHAT,
    DEEPSEEK,
    FROM_OLLAMA,
    LOADING,
    UNAUTHORIZED,
    UNREACHABLE,
    A,
    B,
    Client,
    FakeServers,
    content,
    urls,
)

# Failover to another server


@pytest.mark.parametrize(
    "failure", [UNREACHABLE, LOADING, BOOM, BUSY, incomplete_reply(A, "reset"), [b"{"], Reply(500, b"<h1>")]
)
def test_call_fails_over_to_other_server_of_model(failure: Any) -> None:
    client = Client()
    played = client.call(failure, chat_stream(ANSWER))
    assert urls(played) == [A + CHAT, B + CHAT]
    assert (content(played), played.sleeps) == (ANSWER, [])
    assert (client.last.failovers, client.last.retries, client.last.answered_by) == (1, 0, B)


@pytest.mark.parametrize(
    ("failure", "status"),
    [(refused("no such parameter", 400), 400), (refused("too large", 413), 413), (UNAUTHORIZED, 401)],
)
def test_request_error_is_not_repeated(failure: Reply, status: int) -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, error = client.failing_call(failure)
    assert urls(played) == [A + CHAT]
    assert isinstance(error, ResponseError)
    assert error.status_code == status


def test_timeout_is_not_repeated() -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, error = client.failing_call(httpx.ReadTimeout("slow"))
    assert isinstance(error, httpx.ReadTimeout)
    assert urls(played) == [A + CHAT]
    assert client.last.error == "timeout"


# Retries, then fallbacks


def test_fallback_follows_three_rounds_of_all_servers() -> None:
    client = Client(vllm_failover={"smol": "other"})
    played = client.call(*[LOADING] * 6, chat_stream(ANSWER))
    assert urls(played) == [A + CHAT, B + CHAT] * 3 + [B + CHAT]
    assert [request.payload["model"] for request in played.requests if request.payload] == ["smol"] * 6 + ["other"]
    assert len(played.sleeps) == 2
    assert (client.last.retries, client.last.failovers, client.last.served) == (2, 4, "other")


def test_retry_succeeds_after_wait() -> None:
    client = Client(b=())
    played = client.call(LOADING, chat_stream(ANSWER))
    assert urls(played) == [A + CHAT] * 2
    assert (client.last.retries, client.last.failovers, client.last.answered_by) == (1, 0, A)
    assert 0.1 <= played.sleeps[0] <= 0.2


def test_retry_omits_server_that_returned_500() -> None:
    played = Client().call(BOOM, LOADING, chat_stream(ANSWER))
    assert urls(played) == [A + CHAT, B + CHAT, B + CHAT]


def test_last_failure_of_server_decides_whether_it_is_retried() -> None:
    client = Client(b=())
    played, _ = client.failing_call(LOADING, BOOM)
    assert urls(played) == [A + CHAT] * 2
    assert len(played.sleeps) == 1


def test_failures_without_retry_are_not_waited_for() -> None:
    client = Client()
    played, error = client.failing_call(BOOM, BOOM)
    assert (urls(played), played.sleeps) == ([A + CHAT, B + CHAT], [])
    assert client.last.error == "server_error"
    assert f"status 500 from {A}" in str(error)


def test_call_fails_after_three_rounds() -> None:
    client = Client(b=())
    played, error = client.failing_call(*[LOADING] * 3)
    assert len(played.sleeps) == 2
    assert isinstance(error, ResponseError)
    assert (error.status_code, client.last.error) == (503, "unavailable")


def test_retry_waits_for_retry_after_header() -> None:
    played = Client(b=()).call(Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert played.sleeps == [7.5]


def test_retry_after_header_applies_to_one_wait() -> None:
    played = Client(b=()).call(Reply(429, b"", retry_after=7.5), incomplete_reply(A, "reset"), chat_stream(ANSWER))
    assert played.sleeps[0] == 7.5
    assert played.sleeps[1] < 1


def test_long_retry_after_is_not_waited_for_when_fallback_is_left() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "other"})
    played = client.call(Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert (played.sleeps, client.last.retries, client.last.failovers) == ([], 0, 1)


def test_long_retry_after_of_last_fallback_is_waited_for() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "other"})
    played = client.call(BOOM, Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert played.sleeps == [7.5]


def test_wait_stays_within_timeout_of_caller() -> None:
    played, error = Client(b=()).failing_call(Reply(429, b"", retry_after=7.5), timeout_s=5.0)
    assert played.sleeps == []
    assert isinstance(error, ResponseError)
    assert error.status_code == 429


class LoadingServers(FakeServers):
    """Fake servers of which A answers discovery with `replies` first."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__({A: ("smol",), B: ()})
        self._replies = list(replies)

    def model_list(self, base: str) -> Any:
        return self._replies.pop(0) if base == A and self._replies else super().model_list(base)


def client_without_discovery(**settings: Any) -> Client:
    """A client whose dispatcher does not know yet which models its servers serve."""
    client = Client(b=(), **settings)
    for server in client.dispatcher.registry.servers:
        client.dispatcher.registry.forget(server)
    return client


@pytest.mark.parametrize("status", [503, 429])
def test_discovery_is_retried_after_retry_after_header(status: int) -> None:
    replies = Reply(status, b"", retry_after=7.5), Reply(status, b"")
    played = client_without_discovery().call(chat_stream(ANSWER), play=LoadingServers(*replies))
    assert content(played) == ANSWER
    assert played.sleeps[0] == 7.5
    assert played.sleeps[1] < 1


def test_discovery_fails_after_three_rounds_when_server_is_loading() -> None:
    client = client_without_discovery()
    played, error = client.failing_call(play=LoadingServers(*[Reply(503, b"")] * 3))
    assert len(played.sleeps) == 2
    assert isinstance(error, ServerNotReady)
    assert client.last.error == "unavailable"


def test_discovery_is_not_retried_after_status_500() -> None:
    played, error = client_without_discovery().failing_call(play=LoadingServers(Reply(500, b"")))
    assert isinstance(error, ServerNotReady)
    assert played.sleeps == []


def test_connections_exhausted_is_raised_without_retry_or_fallback() -> None:
    client = Client(vllm_failover={"smol": "other"})
    for _ in range(10):
        played, error = client.failing_call(connections_exhausted(A, "Too many open files"))
        assert (urls(played), played.sleeps) == ([A + CHAT], [])
        assert isinstance(error, ConnectionError)
        assert client.last.error == "exhausted"
    assert content(client.call(chat_stream(ANSWER))) == ANSWER


# Fallbacks


@pytest.mark.parametrize(
    ("other", "url", "model", "credential", "provider", "answer"),
    [
        ("other", B + CHAT, "other", "vllm", "vllm", chat_stream(ANSWER)),
        ("ollama:qwen3:8b", "/api/chat", "qwen3:8b", "ollama", "ollama", FROM_OLLAMA),
        ("gpt-oss:120b-cloud", "/api/chat", "gpt-oss:120b-cloud", "ollama", "ollama", FROM_OLLAMA),
        ("deepseek:deepseek-chat", DEEPSEEK, "deepseek-chat", "deepseek", "deepseek", chat_stream(ANSWER)),
    ],
)
def test_fallback_answers_for_the_requested_model(
    other: str, url: str, model: str, credential: str, provider: str, answer: Any
) -> None:
    client = Client(a=("smol",), b=("other",), vllm_failover={"smol": other})
    played = client.call(BOOM, answer)
    request = played.requests[-1]
    assert (request.url, request.credential, played.payload["model"]) == (url, credential, model)
    assert content(played) == ANSWER
    assert played.parts[-1]["model"] == "smol", "the answer names the requested model"
    assert (client.last.provider, client.last.served, client.last.error) == (provider, model, None)


def test_failover_setting_compares_names_like_ollama() -> None:
    client = Client(a=("smol",), b=("other",), vllm_failover={"SMOL:latest": "other"})
    assert content(client.call(BOOM, chat_stream(ANSWER))) == ANSWER


def test_parts_of_provider_stream_name_the_requested_model() -> None:
    client = Client(a=("smol",), b=(), vllm_failover={"smol": "deepseek:deepseek-chat"})
    played = client.call(BOOM, chat_stream("my-", "answer"), stream=True)
    assert [part["model"] for part in played.parts] == ["smol"] * len(played.parts)
    assert (content(played), len(played.parts)) == (ANSWER, 3)


def test_parts_of_ollama_stream_name_the_requested_model() -> None:
    client = Client(a=("smol",), b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    lines: list[JsonObject] = [
        {"model": "qwen3:8b", "message": {"role": "assistant", "content": piece}, "done": piece == ""}
        for piece in ("my-", "answer", "")
    ]
    played = client.call(BOOM, [event(line) for line in lines], stream=True)
    assert played.parts == [{**line, "model": "smol"} for line in lines]


def test_fallback_answers_when_no_server_serves_model() -> None:
    client = Client(a=("other",), b=("other",), vllm_failover={"smol": "other"})
    played = client.call(chat_stream(ANSWER))
    assert urls(played) == [A + CHAT]
    assert client.last.failovers == 1


def test_moved_model_is_found_before_fallback() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "ollama:qwen3:8b"})
    client.serves |= {A: ("other",), B: ("smol",)}
    assert urls(client.call(MODEL_MISSING, chat_stream(ANSWER))) == [A + CHAT, B + CHAT]


def test_fallback_answers_when_model_is_gone() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "ollama:qwen3:8b"})
    played = client.call(MODEL_MISSING, FROM_OLLAMA)
    assert played.requests[-1].credential == "ollama"
    assert client.circuits_closed == [True, True]


def test_vllm_answers_for_cloud_model_when_cloud_fails() -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    played = client.call(BOOM, chat_stream(ANSWER), model="gpt-oss:120b-cloud")
    assert [request.credential for request in played.requests] == ["ollama", "vllm"]
    assert urls(played) == ["/api/chat", A + CHAT]
    assert played.parts[-1]["model"] == "gpt-oss:120b-cloud"


def test_vllm_answers_for_cloud_model_when_cloud_rejects_key() -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    assert content(client.call(UNAUTHORIZED, chat_stream(ANSWER), model="gpt-oss:120b-cloud")) == ANSWER


def test_wrong_vllm_key_is_raised_without_fallback() -> None:
    client = Client(vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.failing_call(UNAUTHORIZED)
    assert urls(played) == [A + CHAT]
    assert "check VLLM_API_KEY" in str(error)
    assert client.last.error == "unauthorized"


@pytest.mark.parametrize("status", [401, 402, 403])
def test_next_fallback_answers_when_provider_rejects_key(status: int) -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("deepseek:deepseek-chat", "other")})
    played = client.call(BOOM, Reply(status, b""), chat_stream(ANSWER))
    assert urls(played) == [A + CHAT, DEEPSEEK, B + CHAT]
    assert (client.last.failovers, client.last.served) == (2, "other")


@pytest.mark.parametrize("path", ["/api/show", "/api/pull"])
def test_show_and_pull_of_cloud_model_use_no_fallback(path: str) -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    assert client.dispatcher.dispatch(path, {"model": "gpt-oss:120b-cloud"}) is None


def test_error_is_the_first_with_notes_of_failed_fallbacks() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "deepseek:deepseek-chat")})
    played, error = client.failing_call(BOOM, LOADING, LOADING, LOADING, Reply(402, b""))
    assert str(error).startswith(f"boom (status 500 from {A})")
    (one, two) = error.__notes__
    assert one.startswith("The fallback other failed too: loading")
    assert two.startswith("The fallback deepseek:deepseek-chat failed too: ")
    assert "DEEPSEEK_API_KEY" in two
    assert client.last.error == "server_error"
    assert len(played.requests) == 5


def test_request_error_of_fallback_ends_the_chain() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.failing_call(BOOM, refused("too long for it", 400))
    assert len(played.requests) == 2
    assert str(error).startswith("boom")


# Answers that have begun


ENDS: dict[str, list[Any]] = {
    "without its end": [],
    "reset": [incomplete_reply(A, "reset")],
    "error": [event({"error": {"message": "boom", "code": 500}})],
    "malformed": [b"{"],
    "abort": [delta("abort")],
}
"""How an answer may fail after its first piece."""


@pytest.mark.parametrize("end", [*ENDS.values(), [httpx.ReadTimeout("slow")]], ids=[*ENDS, "timeout"])
def test_interrupted_stream_is_neither_repeated_nor_answered_by_fallback(end: list[Any]) -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, _ = client.failing_call([delta(content="my-"), *end], stream=True)
    assert (urls(played), played.sleeps) == ([A + CHAT], [])
    assert content(played) == "my-"
    assert client.last.error == "cut_off"
    assert client.dispatcher.registry.servers[0].breaker.failures == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_interrupted_answer_is_repeated_when_nothing_was_delivered(end: list[Any], stream: bool) -> None:
    begun = delta(role="assistant") if stream else delta(content="my-")
    client = Client()
    played = client.call([begun, *end], chat_stream(ANSWER), stream=stream)
    assert (urls(played), content(played)) == ([A + CHAT, B + CHAT], ANSWER)
    assert (client.last.error, client.last.failovers) == (None, 1)
    assert client.dispatcher.registry.servers[0].breaker.failures == 1


def test_first_token_time_belongs_to_successful_attempt() -> None:
    client = Client(b=())
    played = client.call([delta(content="my-")], chat_stream(ANSWER))
    assert played.parts[-1]["prompt_eval_duration"] >= 0
    assert played.parts[-1]["total_duration"] >= played.parts[-1]["load_duration"]
    assert client.last.first_token is not None


def test_timeout_after_first_token_is_not_repeated_without_stream() -> None:
    client = Client()
    played, error = client.failing_call([delta(content="my-"), httpx.ReadTimeout("slow")])
    assert (urls(played), client.last.error) == ([A + CHAT], "timeout")
    assert isinstance(error, httpx.ReadTimeout)


def test_stream_without_events_is_repeated() -> None:
    played = Client().call([], chat_stream(ANSWER), stream=True)
    assert (urls(played), content(played)) == ([A + CHAT, B + CHAT], ANSWER)


def test_interrupted_stream_of_fallback_is_not_repeated() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.failing_call(BOOM, [delta(content="my-")], stream=True)
    assert (len(played.requests), content(played)) == (2, "my-")
    assert "incomplete reply from" in str(error)
    assert client.last.error == "cut_off"


def test_unreachable_server_is_discovered_again_before_retry() -> None:
    client = Client(b=())
    client.serves[A] = ("other",)
    played, error = client.failing_call(UNREACHABLE)
    assert urls(played) == [A + CHAT]
    assert isinstance(error, ResponseError)
    assert error.error == "model 'smol' not found"


def test_unreachable_server_raises_its_error_after_three_rounds() -> None:
    played, error = Client(b=()).failing_call(*[UNREACHABLE] * 3)
    assert (urls(played), len(played.sleeps)) == ([A + CHAT] * 3, 2)
    assert error is UNREACHABLE
    assert isinstance(error, ServerUnreachable)


def test_incomplete_replies_raise_incomplete_reply() -> None:
    with pytest.raises(IncompleteReply, match="without a finish_reason"):
        Client(b=()).call(*[[]] * 3)
