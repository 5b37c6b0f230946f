"""A call against a provider: where its requests go, and which replies, warnings and errors it gets."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_compat import ResponseError
from ollama_compat.exceptions import MalformedReply
from ollama_compat.mapping.errors import malformed_reply, redirected
from ollama_compat.operations.chat import chat
from ollama_compat.operations.embed import embed
from ollama_compat.operations.generate import generate
from ollama_compat.providers.adapter import ProviderAdapter
from ollama_compat.providers.dialects import CHAT, COMPLETIONS, EMBEDDINGS
from ollama_compat.settings import PROVIDERS, Provider
from ollama_compat.steps import JsonObject, Reply, Request, Send, Steps, intercept
from tests.payloads import VLLM_ONLY
from tests.play import Play, call, chat_stream, completion_stream, delta, play, refused, reply, usage

DEEPSEEK = PROVIDERS["deepseek"]


def send_one(path: str, payload: JsonObject | None = None) -> Steps[None]:
    """Steps that send one request and yield its reply."""
    method: Any = "GET" if payload is None else "POST"
    answer: Reply = yield Send(Request(method, "http://vllm:8001", path, payload))
    yield {"status": answer.status, "body": answer.body}


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.deepseek.com", "https://api.deepseek.com/v1/chat/completions"),
        ("https://api.deepseek.com/v1", "https://api.deepseek.com/v1/chat/completions"),
        ("https://openrouter.ai", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://api.groq.com/openai/v1/", "https://api.groq.com/openai/v1/chat/completions"),
        (
            "https://generativelanguage.googleapis.com",
            "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        ),
        ("http://gateway:8000/llm/openai", "http://gateway:8000/llm/openai/chat/completions"),
    ],
)
def test_request_goes_to_the_providers_url(base: str, url: str) -> None:
    played = through(send_one(CHAT, {"model": "m", "messages": []}), reply({}), provider=Provider(base_url=base))
    assert played.requests[0].url == url


@pytest.mark.parametrize("base", ["http://gateway:8000/a", "http://gateway:8000/a/v1"])
@pytest.mark.parametrize("path", ["/tokenize", "/v1/models", CHAT])
def test_vllm_dialect_has_every_path(base: str, path: str) -> None:
    provider = Provider(base_url=base, dialect="vllm")
    assert through(send_one(path), reply({}), provider=provider).requests[0].url == f"http://gateway:8000/a{path}"


# Calls through the adapter


def through(
    steps: Steps[None],
    *script: Any,
    provider: Provider = DEEPSEEK,
    name: str = "cloud",
    warnings: list[str] | None = None,
) -> Play:
    """Play steps against a provider; `warnings` collects the texts for the log."""

    def notice(event: str, subject: str, text: str, **facts: object) -> None:
        if warnings is not None:
            warnings.append(text % facts)

    return play(intercept(steps, ProviderAdapter(provider, name, notice)), *script)


def test_chat_is_sent_to_the_provider_and_returns_its_reply() -> None:
    provider = Provider(base_url="https://api.deepseek.com", models={"smol": "deepseek-v4-flash"})
    warnings: list[str] = []
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "options": {"temperature": 0.5}}
    played = through(chat(call("/api/chat", body)), chat_stream("Hel", "lo"), provider=provider, warnings=warnings)
    request = played.requests[0]
    assert len(played.requests) == 1
    assert (request.url, request.credential) == ("https://api.deepseek.com/v1/chat/completions", "cloud")
    assert played.payload["model"] == "deepseek-v4-flash"
    assert played.payload["temperature"] == 0.5
    assert not played.payload.keys() & VLLM_ONLY
    assert "".join(part["message"]["content"] for part in played.parts) == "Hello"
    assert (played.parts[-1]["prompt_eval_count"], played.parts[-1]["eval_count"]) == (7, 3)
    assert "provider cloud does not support top_k" in warnings


def test_reasoning_content_becomes_thinking() -> None:
    events = [delta(reasoning_content="Hm. "), delta(content="Hello"), delta("stop"), usage(), b"[DONE]"]
    body = {"messages": [{"role": "user", "content": "Hi"}], "think": True}
    played = through(chat(call("/api/chat", body, model="deepseek-v4-pro")), events)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hello", "thinking": "Hm. "}


def test_missing_endpoint_gets_404_without_a_request() -> None:
    for path in ("/tokenize", "/v1/models", COMPLETIONS, EMBEDDINGS, "/v1/systemone"):
        played = through(send_one(path))
        assert played.requests == []
        assert played.parts == [{"status": 404, "body": b'{"detail":"Not Found"}'}]


def test_raw_prompt_is_sent_only_to_providers_that_support_it() -> None:
    body = {"prompt": "Once", "raw": True}
    with pytest.raises(ResponseError, match="does not support generate"):
        through(generate(call("/api/generate", body)))
    provider = Provider(base_url="https://api.together.ai/v1")
    played = through(generate(call("/api/generate", body)), completion_stream("upon"), provider=provider)
    assert played.parts[-1]["response"] == "upon"


def test_embeddings_are_read_from_numbers() -> None:
    provider = Provider(base_url="https://api.together.ai/v1")
    vectors = reply({"data": [{"embedding": [0.0, 1.0]}], "usage": {"prompt_tokens": 2}})
    played = through(embed(call("/api/embed", {"input": "a"})), vectors, provider=provider)
    assert played.parts[0]["embeddings"] == [[0.0, 1.0]]


def test_error_has_the_providers_status_and_message() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(ResponseError) as caught:
        through(chat(call("/api/chat", body)), refused("overloaded", 503))
    assert caught.value.status_code == 503
    assert "overloaded" in caught.value.error


@pytest.mark.parametrize("status", [401, 402, 403])
def test_rejected_key_error_names_the_provider_and_its_variable(status: int) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(ResponseError) as caught:
        through(chat(call("/api/chat", body)), refused("Insufficient Balance", status), name="deepseek")
    assert caught.value.status_code == status
    assert "Insufficient Balance (provider deepseek, https://api.deepseek.com" in caught.value.error
    assert "DEEPSEEK_API_KEY" in caught.value.error
    assert "VLLM_API_KEY" not in caught.value.error


def test_exception_is_thrown_into_the_steps() -> None:
    def waiting() -> Steps[None]:
        try:
            yield Send(Request("POST", "", CHAT, {"model": "m", "messages": []}))
        except TimeoutError:
            yield {"timed": "out"}

    assert through(waiting(), TimeoutError()).parts == [{"timed": "out"}]


def test_close_closes_the_wrapped_steps() -> None:
    closed = []

    def open_() -> Steps[None]:
        try:
            yield {"a": "part"}
        finally:
            closed.append(True)

    inner = open_()  # a reference, so that the garbage collector does not close it
    wrapped = intercept(inner, ProviderAdapter(DEEPSEEK, "deepseek", lambda *_, **__: None))
    next(wrapped)
    wrapped.close()
    assert closed == [True]


def test_warnings_have_a_subject_per_key_and_provider() -> None:
    subjects: list[str] = []

    def notice(event: str, subject: str, text: str, **facts: object) -> None:
        subjects.append(f"{event}: {subject}")

    steps = send_one(CHAT, {"model": "m", "messages": [], "top_k": 40, "seed": 1})
    play(intercept(steps, ProviderAdapter(DEEPSEEK, "deepseek", notice)), reply({}))
    assert subjects == ["unsupported by provider: deepseek top_k", "unsupported by provider: deepseek seed"]


@pytest.mark.parametrize(
    "malformed", [malformed_reply("https://x", "it is empty"), redirected("https://x/v1", "http://y/")]
)
def test_malformed_reply_error_names_the_providers_base_url(malformed: MalformedReply) -> None:
    steps = send_one(CHAT, {"model": "m", "messages": []})
    with pytest.raises(MalformedReply) as caught:
        through(steps, malformed, name="cloud")
    text = str(caught.value)
    assert "Please check base_url in [providers.cloud]: https://api.deepseek.com" in text
    assert "https://x" in text
    assert "vLLM" not in text
    assert "VLLM_URLS" not in text
    assert caught.value.status_code == malformed.status_code


def test_unreadable_event_error_names_the_providers_base_url() -> None:
    with pytest.raises(MalformedReply, match=r"sent a malformed reply.*Please check base_url in \[providers.cloud\]"):
        through(chat(call("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]})), [b"{"], name="cloud")


def test_adapter_error_leaves_other_errors_unchanged() -> None:
    error = TimeoutError()
    assert ProviderAdapter(DEEPSEEK, "deepseek", lambda *_, **__: None).error(error) is error
