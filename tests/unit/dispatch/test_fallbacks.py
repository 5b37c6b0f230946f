"""Who is asked when a call fails: another server, the same ones after a wait, what stands in."""

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
    REFUSES,
    UNAUTHORIZED,
    A,
    B,
    Client,
    Servers,
    asked,
    content,
)

# A server stands in for another


@pytest.mark.parametrize(
    "failure", [REFUSES, LOADING, BOOM, BUSY, incomplete_reply(A, "reset"), [b"{"], Reply(500, b"<h1>")]
)
def test_another_server_of_the_model_is_asked(failure: Any) -> None:
    client = Client()
    played = client.ask(failure, chat_stream(ANSWER))
    assert asked(played) == [A + CHAT, B + CHAT]
    assert (content(played), played.sleeps) == (ANSWER, [])
    assert (client.last.failovers, client.last.retries, client.last.answered_by) == (1, 0, B)


@pytest.mark.parametrize(
    ("failure", "status"),
    [(refused("no such parameter", 400), 400), (refused("too large", 413), 413), (UNAUTHORIZED, 401)],
)
def test_what_is_the_questions_own_fault_is_asked_of_nobody_else(failure: Reply, status: int) -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, error = client.fails(failure)
    assert asked(played) == [A + CHAT]
    assert isinstance(error, ResponseError)
    assert error.status_code == status


def test_a_timeout_is_the_callers_and_is_not_begun_again() -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, error = client.fails(httpx.ReadTimeout("slow"))
    assert isinstance(error, httpx.ReadTimeout)
    assert asked(played) == [A + CHAT]
    assert client.last.error == "timeout"


# Then they are asked again, then what stands in


def test_first_every_server_then_after_a_wait_again_then_the_chain() -> None:
    client = Client(vllm_failover={"smol": "other"})
    played = client.ask(*[LOADING] * 6, chat_stream(ANSWER))
    assert asked(played) == [A + CHAT, B + CHAT] * 3 + [B + CHAT]
    assert [request.payload["model"] for request in played.requests if request.payload] == ["smol"] * 6 + ["other"]
    assert len(played.sleeps) == 2
    assert (client.last.retries, client.last.failovers, client.last.served) == (2, 4, "other")


def test_a_wait_that_mends_it() -> None:
    client = Client(b=())
    played = client.ask(LOADING, chat_stream(ANSWER))
    assert asked(played) == [A + CHAT] * 2
    assert (client.last.retries, client.last.failovers, client.last.answered_by) == (1, 0, A)
    assert 0.1 <= played.sleeps[0] <= 0.2


def test_a_server_that_said_500_is_not_asked_again_but_the_others_are() -> None:
    played = Client().ask(BOOM, LOADING, chat_stream(ANSWER))
    assert asked(played) == [A + CHAT, B + CHAT, B + CHAT]


def test_what_a_server_said_last_decides_whether_it_is_asked_again() -> None:
    client = Client(b=())
    played, _ = client.fails(LOADING, BOOM)
    assert asked(played) == [A + CHAT] * 2
    assert len(played.sleeps) == 1


def test_what_no_wait_can_mend_is_not_waited_for() -> None:
    client = Client()
    played, error = client.fails(BOOM, BOOM)
    assert (asked(played), played.sleeps) == ([A + CHAT, B + CHAT], [])
    assert client.last.error == "server_error"
    assert f"status 500 from {A}" in str(error)


def test_after_three_tries_it_is_given_up() -> None:
    client = Client(b=())
    played, error = client.fails(*[LOADING] * 3)
    assert len(played.sleeps) == 2
    assert isinstance(error, ResponseError)
    assert (error.status_code, client.last.error) == (503, "unavailable")


def test_a_servers_own_wish_goes_before_the_back_off() -> None:
    played = Client(b=()).ask(Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert played.sleeps == [7.5]


def test_a_wish_is_good_for_one_wait() -> None:
    played = Client(b=()).ask(Reply(429, b"", retry_after=7.5), incomplete_reply(A, "reset"), chat_stream(ANSWER))
    assert played.sleeps[0] == 7.5
    assert played.sleeps[1] < 1


def test_a_long_wish_is_not_waited_for_when_something_stands_in() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "other"})
    played = client.ask(Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert (played.sleeps, client.last.retries, client.last.failovers) == ([], 0, 1)


def test_at_the_end_of_the_chain_it_is_waited_for() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "other"})
    played = client.ask(BOOM, Reply(429, b"", retry_after=7.5), chat_stream(ANSWER))
    assert played.sleeps == [7.5]


def test_no_wait_goes_beyond_the_callers_timeout() -> None:
    played, error = Client(b=()).fails(Reply(429, b"", retry_after=7.5), timeout_s=5.0)
    assert played.sleeps == []
    assert isinstance(error, ResponseError)
    assert error.status_code == 429


class Loads(Servers):
    """A playing in which server A first answers this when it is asked what it serves."""

    def __init__(self, *answers: Reply) -> None:
        super().__init__({A: ("smol",), B: ()})
        self._answers = list(answers)

    def told(self, base: str) -> Any:
        return self._answers.pop(0) if base == A and self._answers else super().told(base)


def unlearnt(**settings: Any) -> Client:
    """A client that has not learnt yet what its servers serve."""
    client = Client(b=(), **settings)
    for server in client.made.registry.servers:
        client.made.registry.forget(server)
    return client


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_that_can_not_list_its_models_yet_is_asked_again_when_it_wishes(status: int) -> None:
    answers = Reply(status, b"", retry_after=7.5), Reply(status, b"")
    played = unlearnt().ask(chat_stream(ANSWER), play=Loads(*answers))
    assert content(played) == ANSWER
    assert played.sleeps[0] == 7.5
    assert played.sleeps[1] < 1


def test_after_three_tries_it_is_told_that_it_loads() -> None:
    client = unlearnt()
    played, error = client.fails(play=Loads(*[Reply(503, b"")] * 3))
    assert len(played.sleeps) == 2
    assert isinstance(error, ServerNotReady)
    assert client.last.error == "unavailable"


def test_a_server_that_is_broken_is_not_asked_again_what_it_serves() -> None:
    played, error = unlearnt().fails(play=Loads(Reply(500, b"")))
    assert isinstance(error, ServerNotReady)
    assert played.sleeps == []


def test_that_this_process_can_not_connect_is_told_at_once() -> None:
    client = Client(vllm_failover={"smol": "other"})
    for _ in range(10):
        played, error = client.fails(connections_exhausted(A, "Too many open files"))
        assert (asked(played), played.sleeps) == ([A + CHAT], [])
        assert isinstance(error, ConnectionError)
        assert client.last.error == "exhausted"
    assert content(client.ask(chat_stream(ANSWER))) == ANSWER


# Who stands in


@pytest.mark.parametrize(
    ("other", "url", "model", "credential", "provider", "answer"),
    [
        ("other", B + CHAT, "other", "vllm", "vllm", chat_stream(ANSWER)),
        ("ollama:qwen3:8b", "/api/chat", "qwen3:8b", "ollama", "ollama", FROM_OLLAMA),
        ("gpt-oss:120b-cloud", "/api/chat", "gpt-oss:120b-cloud", "ollama", "ollama", FROM_OLLAMA),
        ("deepseek:deepseek-chat", DEEPSEEK, "deepseek-chat", "deepseek", "deepseek", chat_stream(ANSWER)),
    ],
)
def test_what_the_chain_names_stands_in(
    other: str, url: str, model: str, credential: str, provider: str, answer: Any
) -> None:
    client = Client(a=("smol",), b=("other",), vllm_failover={"smol": other})
    played = client.ask(BOOM, answer)
    request = played.requests[-1]
    assert (request.url, request.credential, played.payload["model"]) == (url, credential, model)
    assert content(played) == ANSWER
    assert played.parts[-1]["model"] == "smol", "it is the model that was asked for"
    assert (client.last.provider, client.last.served, client.last.error) == (provider, model, None)


def test_the_key_of_the_map_may_be_written_as_ollama_compares_names() -> None:
    client = Client(a=("smol",), b=("other",), vllm_failover={"SMOL:latest": "other"})
    assert content(client.ask(BOOM, chat_stream(ANSWER))) == ANSWER


def test_every_part_of_a_stream_names_the_model_that_was_asked_for() -> None:
    client = Client(a=("smol",), b=(), vllm_failover={"smol": "deepseek:deepseek-chat"})
    played = client.ask(BOOM, chat_stream("my-", "answer"), stream=True)
    assert [part["model"] for part in played.parts] == ["smol"] * len(played.parts)
    assert (content(played), len(played.parts)) == (ANSWER, 3)


def test_a_stream_of_ollamas_stands_in_part_by_part() -> None:
    client = Client(a=("smol",), b=(), vllm_failover={"smol": "ollama:qwen3:8b"})
    lines: list[JsonObject] = [
        {"model": "qwen3:8b", "message": {"role": "assistant", "content": piece}, "done": piece == ""}
        for piece in ("my-", "answer", "")
    ]
    played = client.ask(BOOM, [event(line) for line in lines], stream=True)
    assert played.parts == [{**line, "model": "smol"} for line in lines]


def test_a_model_that_no_server_has_is_stood_in_for() -> None:
    client = Client(a=("other",), b=("other",), vllm_failover={"smol": "other"})
    played = client.ask(chat_stream(ANSWER))
    assert asked(played) == [A + CHAT]
    assert client.last.failovers == 1


def test_a_model_that_moved_is_looked_for_before_anything_stands_in() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "ollama:qwen3:8b"})
    client.serves |= {A: ("other",), B: ("smol",)}
    assert asked(client.ask(MODEL_MISSING, chat_stream(ANSWER))) == [A + CHAT, B + CHAT]


def test_a_model_that_is_gone_is_stood_in_for() -> None:
    client = Client(b=("other",), vllm_failover={"smol": "ollama:qwen3:8b"})
    played = client.ask(MODEL_MISSING, FROM_OLLAMA)
    assert played.requests[-1].credential == "ollama"
    assert client.closed == [True, True]


def test_a_cloud_model_that_has_a_chain_is_answered_by_vllm_when_the_cloud_cant() -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    played = client.ask(BOOM, chat_stream(ANSWER), model="gpt-oss:120b-cloud")
    assert [request.credential for request in played.requests] == ["ollama", "vllm"]
    assert asked(played) == ["/api/chat", A + CHAT]
    assert played.parts[-1]["model"] == "gpt-oss:120b-cloud"


def test_a_cloud_model_that_refuses_the_key_is_answered_by_vllm_too() -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    assert content(client.ask(UNAUTHORIZED, chat_stream(ANSWER), model="gpt-oss:120b-cloud")) == ANSWER


def test_a_wrong_key_of_vllm_is_not_hidden_by_the_chain() -> None:
    client = Client(vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.fails(UNAUTHORIZED)
    assert asked(played) == [A + CHAT]
    assert "check VLLM_API_KEY" in str(error)
    assert client.last.error == "unauthorized"


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_wrong_or_spent_key_of_a_provider_is_stood_in_for(status: int) -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("deepseek:deepseek-chat", "other")})
    played = client.ask(BOOM, Reply(status, b""), chat_stream(ANSWER))
    assert asked(played) == [A + CHAT, DEEPSEEK, B + CHAT]
    assert (client.last.failovers, client.last.served) == (2, "other")


@pytest.mark.parametrize("path", ["/api/show", "/api/pull"])
def test_what_asks_about_a_model_itself_names_that_model(path: str) -> None:
    client = Client(vllm_failover={"gpt-oss:120b-cloud": "smol"})
    assert client.made.dispatch(path, {"model": "gpt-oss:120b-cloud"}) is None


def test_when_all_fail_the_error_is_the_first_with_a_note_of_each_other() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "deepseek:deepseek-chat")})
    played, error = client.fails(BOOM, LOADING, LOADING, LOADING, Reply(402, b""))
    assert str(error).startswith(f"boom (status 500 from {A})")
    (one, two) = error.__notes__
    assert one.startswith("The fallback other failed too: loading")
    assert two.startswith("The fallback deepseek:deepseek-chat failed too: ")
    assert "DEEPSEEK_API_KEY" in two
    assert client.last.error == "server_error"
    assert len(played.requests) == 5


def test_a_stand_ins_own_refusal_ends_the_chain() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.fails(BOOM, refused("too long for it", 400))
    assert len(played.requests) == 2
    assert str(error).startswith("boom")


# Nothing is begun twice


ENDS: dict[str, list[Any]] = {
    "without its end": [],
    "reset": [incomplete_reply(A, "reset")],
    "error": [event({"error": {"message": "boom", "code": 500}})],
    "malformed": [b"{"],
    "abort": [delta("abort")],
}
"""How an answer may end after its first piece."""


@pytest.mark.parametrize("end", [*ENDS.values(), [httpx.ReadTimeout("slow")]], ids=[*ENDS, "timeout"])
def test_a_stream_that_has_begun_is_neither_repeated_nor_stood_in_for(end: list[Any]) -> None:
    client = Client(vllm_failover={"smol": "other"})
    played, _ = client.fails([delta(content="my-"), *end], stream=True)
    assert (asked(played), played.sleeps) == ([A + CHAT], [])
    assert content(played) == "my-"
    assert client.last.error == "cut_off"
    assert client.made.registry.servers[0].breaker.failures == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_answer_of_which_the_caller_has_nothing_is_asked_for_again(end: list[Any], stream: bool) -> None:
    begun = delta(role="assistant") if stream else delta(content="my-")
    client = Client()
    played = client.ask([begun, *end], chat_stream(ANSWER), stream=stream)
    assert (asked(played), content(played)) == ([A + CHAT, B + CHAT], ANSWER)
    assert (client.last.error, client.last.failovers) == (None, 1)
    assert client.made.registry.servers[0].breaker.failures == 1


def test_the_first_token_of_an_answer_is_that_of_the_attempt_that_gave_it() -> None:
    client = Client(b=())
    played = client.ask([delta(content="my-")], chat_stream(ANSWER))
    assert played.parts[-1]["prompt_eval_duration"] >= 0
    assert played.parts[-1]["total_duration"] >= played.parts[-1]["load_duration"]
    assert client.last.first_token is not None


def test_a_plain_call_whose_time_is_up_after_the_first_token_is_not_asked_again() -> None:
    client = Client()
    played, error = client.fails([delta(content="my-"), httpx.ReadTimeout("slow")])
    assert (asked(played), client.last.error) == ([A + CHAT], "timeout")
    assert isinstance(error, httpx.ReadTimeout)


def test_a_stream_that_ended_before_its_first_event_is_asked_for_again() -> None:
    played = Client().ask([], chat_stream(ANSWER), stream=True)
    assert (asked(played), content(played)) == ([A + CHAT, B + CHAT], ANSWER)


def test_an_answer_of_a_stand_in_is_not_begun_twice_either() -> None:
    client = Client(b=("other",), vllm_failover={"smol": ("other", "ollama:qwen3:8b")})
    played, error = client.fails(BOOM, [delta(content="my-")], stream=True)
    assert (len(played.requests), content(played)) == (2, "my-")
    assert "incomplete reply from" in str(error)
    assert client.last.error == "cut_off"


def test_a_server_that_was_gone_is_asked_anew_what_it_serves() -> None:
    client = Client(b=())
    client.serves[A] = ("other",)
    played, error = client.fails(REFUSES)
    assert asked(played) == [A + CHAT]
    assert isinstance(error, ResponseError)
    assert error.error == "model 'smol' not found"


def test_a_server_that_stays_gone_is_the_error_that_the_caller_gets() -> None:
    played, error = Client(b=()).fails(*[REFUSES] * 3)
    assert (asked(played), len(played.sleeps)) == ([A + CHAT] * 3, 2)
    assert error is REFUSES
    assert isinstance(error, ServerUnreachable)


def test_a_broken_answer_is_the_error_that_the_caller_gets() -> None:
    with pytest.raises(IncompleteReply, match="without a finish_reason"):
        Client(b=()).ask(*[[]] * 3)
