"""What stands in for vLLM: a request in a provider's words, where it goes, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ollama_compat import ResponseError
from ollama_compat.exceptions import MalformedReply
from ollama_compat.mapping.errors import malformed_reply, redirected
from ollama_compat.mapping.model_families import FAMILIES, UNKNOWN
from ollama_compat.operations.chat import chat
from ollama_compat.operations.embed import embed
from ollama_compat.operations.generate import generate
from ollama_compat.providers.dialects import CHAT, COMPLETIONS, EMBEDDINGS, Dialect
from ollama_compat.providers.request import (
    _SWITCHES,
    SCHEMA_ASKED,
    SCHEMA_TOLD,
    THOUGHTS,
    adapt,
    adapted,
    dialect_of,
)
from ollama_compat.settings import PROVIDERS, Provider
from ollama_compat.steps import JsonObject, Reply, Request, Send, Steps
from tests.payloads import FULL, HISTORY, OTHERS, SCHEMA, VLLM_ONLY, as_format, asked
from tests.play import Play, call, completed, delta, play, refused, reply, said, usage

DEEPSEEK = PROVIDERS["deepseek"]

# Thinking

ENABLED, DISABLED = {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("dialect", "model", "think", "said_"),
    [
        ("deepseek", "deepseek-v4-flash", True, ENABLED),
        ("deepseek", "deepseek-v4-flash", False, DISABLED),
        ("deepseek", "deepseek-v4-flash", "low", {**ENABLED, "reasoning_effort": "low"}),
        ("deepseek", "deepseek-v4-flash", "max", {**ENABLED, "reasoning_effort": "max"}),
        ("openai", "gpt-5.2", True, {"reasoning_effort": "medium"}),
        ("openai", "gpt-5.2", False, {"reasoning_effort": "none"}),
        ("openai", "gpt-5-mini", False, {"reasoning_effort": "minimal"}),
        ("openai", "o3", False, {"reasoning_effort": "low"}),
        ("openrouter", "any/model", "high", {"reasoning_effort": "high"}),
        ("openrouter", "any/model", False, {"reasoning_effort": "none"}),
        ("groq", "qwen/qwen3-32b", True, {"reasoning_effort": "default", "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3-32b", "high", {"reasoning_effort": "default", "reasoning_format": "parsed"}),
        ("groq", "qwen/qwen3.8", "low", {"reasoning_effort": "low", "reasoning_format": "parsed"}),
        ("groq", "openai/gpt-oss-20b", True, {}),
        ("groq", "openai/gpt-oss-20b", "max", {"reasoning_effort": "high"}),
        ("together", "Qwen/Qwen3.5-9B", False, {"reasoning": {"enabled": False}}),
        ("fireworks", "accounts/fireworks/models/deepseek-v3p1", True, {"reasoning_effort": "medium"}),
        ("mistral", "mistral-medium-3-5", "low", {"reasoning_effort": "high"}),
        ("mistral", "magistral-medium-latest", "high", {}),
        ("gemini", "gemini-2.5-flash", False, {"reasoning_effort": "none"}),
        ("gemini", "gemini-3-pro", False, {"reasoning_effort": "low"}),
    ],
)
def test_thinking_is_switched_as_the_provider_and_the_model_do(
    dialect: str, model: str, think: bool | str, said_: JsonObject
) -> None:
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    payload, told = asked(dialect, model, chat_template_kwargs={"enable_thinking": bool(think)}, **level)
    keys = ("thinking", "reasoning", "reasoning_effort", "reasoning_format")
    assert {key: payload[key] for key in keys if key in payload} == said_
    assert told == ()


@pytest.mark.parametrize(
    ("dialect", "model", "think"),
    [
        ("groq", "llama-3.3-70b-versatile", False),
        ("openai", "gpt-4o", True),
        ("openai-compatible", "qwen3", True),
        ("fireworks", "minimax-m2", False),
        ("mistral", "magistral-small-latest", False),
    ],
)
def test_a_model_that_is_not_switched_is_not_told_and_the_caller_is(dialect: str, model: str, think: bool) -> None:
    payload, told = asked(dialect, model, chat_template_kwargs={"thinking": think})
    assert not payload.keys() & {"thinking", "reasoning", "reasoning_effort", "chat_template_kwargs"}
    assert told == ("think",)


def test_a_level_without_a_switch_is_told_alone() -> None:
    assert asked("groq", "gpt-oss-120b", reasoning_effort="low")[0]["reasoning_effort"] == "low"


def test_other_template_arguments_are_told() -> None:
    assert asked("openrouter", chat_template_kwargs={"custom": 1})[1] == ("chat_template_kwargs",)


def test_the_switches_are_those_of_the_translation() -> None:
    assert {row.style.switch for row in FAMILIES if row.style.switch} | {UNKNOWN.switch} == _SWITCHES


def test_deepseek_does_not_think_after_calls_without_thoughts() -> None:
    forgotten = [{key: value for key, value in message.items() if key != "reasoning"} for message in HISTORY]
    payload, told = asked("deepseek", messages=forgotten)
    assert (payload["thinking"], told) == ({"type": "disabled"}, ())
    payload, told = asked("deepseek", messages=forgotten, chat_template_kwargs={"thinking": True})
    assert (payload["thinking"], told) == ({"type": "disabled"}, ("think",))
    payload, told = asked("deepseek", messages=HISTORY, chat_template_kwargs={"thinking": True})
    assert (payload["thinking"], told) == ({"type": "enabled"}, ())


# Messages


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        ("deepseek", "reasoning_content"),
        ("fireworks", "reasoning_content"),
        ("openrouter", "reasoning"),
        ("groq", "reasoning"),
        ("together", "reasoning"),
        ("openai", None),
        ("mistral", None),
        ("gemini", None),
        ("openai-compatible", None),
    ],
)
def test_earlier_thoughts_go_where_the_provider_has_a_field_for_them(dialect: str, field: str | None) -> None:
    payload, told = asked(dialect, messages=HISTORY)
    thoughts = {key: value for key, value in payload["messages"][2].items() if key.startswith("reasoning")}
    assert thoughts == ({field: "I should look."} if field else {})
    assert (THOUGHTS in told) is (field is None)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_a_tools_result_has_its_name_where_that_is_taken(row: Dialect) -> None:
    payload, _ = adapted(FULL, CHAT, row, "m")
    result = next(message for message in payload["messages"] if message["role"] == "tool")
    assert ("name" in result) is (row.name in ("mistral", "gemini"))


def test_mistral_gets_ids_of_nine_characters_the_same_for_a_call_and_its_result() -> None:
    messages = asked("mistral", messages=HISTORY)[0]["messages"]
    call_id = messages[2]["tool_calls"][0]["id"]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert messages[3]["tool_call_id"] == call_id
    kept = [{"role": "tool", "content": "", "tool_call_id": "aB3456789"}]
    assert asked("mistral", messages=kept)[0]["messages"] == kept


@pytest.mark.parametrize(
    ("dialect", "model", "signed"),
    [("gemini", "gemini-3-flash", True), ("gemini", "gemini-2.5-flash", False), ("openai", "gemini-3-flash", False)],
)
def test_gemini_3_gets_calls_that_need_no_signature_of_its_own(dialect: str, model: str, signed: bool) -> None:
    messages = asked(dialect, model, messages=HISTORY)[0]["messages"]
    extras = [call.get("extra_content") for message in messages for call in message.get("tool_calls", ())]
    assert extras
    skipped = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert all(extra == (skipped if signed else None) for extra in extras)


def test_mistral_goes_on_from_a_message() -> None:
    payload, told = asked("mistral", messages=HISTORY[-1:], continue_final_message=True)
    assert payload["messages"] == [{"role": "assistant", "content": "It", "prefix": True}]
    assert told == ()


# Formats


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_any_json_is_asked_for_and_spoken_of(row: Dialect) -> None:
    payload, told = adapted(
        {"messages": [{"role": "user", "content": "Hi"}], "response_format": as_format({"type": "object"})},
        CHAT,
        row,
        "m",
    )
    assert payload["response_format"] == {"type": "json_object"}
    assert payload["messages"][0]["role"] == "system"
    assert "JSON" in payload["messages"][0]["content"]
    assert told == ()


def test_who_speaks_of_json_is_not_told_again() -> None:
    messages = [{"role": "user", "content": "As Json, please"}]
    assert asked("openai", messages=messages, response_format=as_format({"type": "object"}))[0]["messages"] == messages


@pytest.mark.parametrize(("dialect", "lost"), [("together", ()), ("openai", (SCHEMA_ASKED,))])
def test_a_schema_is_sent_where_it_is_taken(dialect: str, lost: tuple[str, ...]) -> None:
    payload, told = asked(dialect, response_format=as_format(SCHEMA))
    assert payload["response_format"] == as_format(SCHEMA)
    assert told == lost


def test_a_schema_is_told_where_it_is_not_taken() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    payload, told = asked("deepseek", messages=messages, response_format=as_format(SCHEMA))
    assert payload["response_format"] == {"type": "json_object"}
    system = payload["messages"][0]["content"]
    assert system.startswith("Be brief.\n\n")
    assert json.dumps(SCHEMA) in system
    assert len(payload["messages"]) == 2
    assert told == (SCHEMA_TOLD,)


# Which row, and where to


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "openai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://notopenrouter.ai/v1", "openai-compatible"),
        ("http://gateway:8000", "openai-compatible"),
    ],
)
def test_the_host_tells_the_dialect(url: str, name: str) -> None:
    assert dialect_of(Provider(base_url=url)).name == name


def test_the_settings_tell_it_before_the_host() -> None:
    assert dialect_of(Provider(base_url="https://api.openai.com", dialect="vllm")).name == "vllm"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dialect": "klingon"}, "unknown dialect 'klingon'; allowed: deepseek, openai"),
        ({"base_url": "https://me:secret@x.example"}, "name the key's variable in api_key_env"),
        ({"base_url": "ftp://x.example"}, "not an http or https URL"),
        ({"api_key_env": "sk-secret"}, "the NAME of an environment variable"),
    ],
)
def test_a_provider_is_checked(fields: JsonObject, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Provider.model_validate({"base_url": "https://x.example", **fields})
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def ask_one(path: str, payload: JsonObject | None = None) -> Steps[None]:
    """An exchange of one request; its reply is its part."""
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
def test_the_url_is_the_providers(base: str, url: str) -> None:
    played = through(ask_one(CHAT, {"model": "m", "messages": []}), reply({}), provider=Provider(base_url=base))
    assert played.requests[0].url == url


@pytest.mark.parametrize("base", ["http://gateway:8000/a", "http://gateway:8000/a/v1"])
@pytest.mark.parametrize("path", ["/tokenize", "/v1/models", CHAT])
def test_another_vllm_has_all_paths(base: str, path: str) -> None:
    provider = Provider(base_url=base, dialect="vllm")
    assert through(ask_one(path), reply({}), provider=provider).requests[0].url == f"http://gateway:8000/a{path}"


# The wrapper


def through(
    exchange: Steps[None],
    *script: Any,
    provider: Provider = DEEPSEEK,
    name: str = "cloud",
    told: list[str] | None = None,
) -> Play:
    """Play an exchange that a provider answers."""

    def notice(event: str, subject: str, text: str, **facts: object) -> None:
        if told is not None:
            told.append(text % facts)

    return play(adapt(exchange, provider, name, notice), *script)


def test_a_chat_is_answered_by_the_provider() -> None:
    provider = Provider(base_url="https://api.deepseek.com", models={"smol": "deepseek-v4-flash"})
    told: list[str] = []
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "options": {"temperature": 0.5}}
    played = through(chat(call("/api/chat", body)), said("Hel", "lo"), provider=provider, told=told)
    request = played.requests[0]
    assert len(played.requests) == 1
    assert (request.url, request.credential) == ("https://api.deepseek.com/v1/chat/completions", "cloud")
    assert played.payload["model"] == "deepseek-v4-flash"
    assert played.payload["temperature"] == 0.5
    assert not played.payload.keys() & VLLM_ONLY
    assert "".join(part["message"]["content"] for part in played.parts) == "Hello"
    assert (played.parts[-1]["prompt_eval_count"], played.parts[-1]["eval_count"]) == (7, 3)
    assert "provider cloud does not take top_k" in told


def test_thoughts_of_a_provider_are_thoughts() -> None:
    events = [delta(reasoning_content="Hm. "), delta(content="Hello"), delta("stop"), usage(), b"[DONE]"]
    body = {"messages": [{"role": "user", "content": "Hi"}], "think": True}
    played = through(chat(call("/api/chat", body, model="deepseek-v4-pro")), events)
    assert played.parts[0]["message"] == {"role": "assistant", "content": "Hello", "thinking": "Hm. "}


def test_what_the_provider_does_not_have_is_answered_without_it() -> None:
    for path in ("/tokenize", "/v1/models", COMPLETIONS, EMBEDDINGS, "/v1/systemone"):
        played = through(ask_one(path))
        assert played.requests == []
        assert played.parts == [{"status": 404, "body": b'{"detail":"Not Found"}'}]


def test_a_raw_prompt_is_refused_where_there_are_none_and_sent_where_there_are() -> None:
    body = {"prompt": "Once", "raw": True}
    with pytest.raises(ResponseError, match="does not support generate"):
        through(generate(call("/api/generate", body)))
    provider = Provider(base_url="https://api.together.ai/v1")
    played = through(generate(call("/api/generate", body)), completed("upon"), provider=provider)
    assert played.parts[-1]["response"] == "upon"


def test_vectors_may_come_as_numbers() -> None:
    provider = Provider(base_url="https://api.together.ai/v1")
    vectors = reply({"data": [{"embedding": [0.0, 1.0]}], "usage": {"prompt_tokens": 2}})
    played = through(embed(call("/api/embed", {"input": "a"})), vectors, provider=provider)
    assert played.parts[0]["embeddings"] == [[0.0, 1.0]]


def test_a_refusal_is_the_providers_own() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(ResponseError) as caught:
        through(chat(call("/api/chat", body)), refused("overloaded", 503))
    assert caught.value.status_code == 503
    assert "overloaded" in caught.value.error


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_told_with_the_providers_name_and_its_variable(status: int) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(ResponseError) as caught:
        through(chat(call("/api/chat", body)), refused("Insufficient Balance", status), name="deepseek")
    assert caught.value.status_code == status
    assert "Insufficient Balance (provider deepseek, https://api.deepseek.com" in caught.value.error
    assert "DEEPSEEK_API_KEY" in caught.value.error
    assert "VLLM_API_KEY" not in caught.value.error


def test_an_exception_reaches_the_exchange() -> None:
    def patient() -> Steps[None]:
        try:
            yield Send(Request("POST", "", CHAT, {"model": "m", "messages": []}))
        except TimeoutError:
            yield {"gave": "up"}

    assert through(patient(), TimeoutError()).parts == [{"gave": "up"}]


def test_closing_it_closes_the_exchange() -> None:
    closed = []

    def open_() -> Steps[None]:
        try:
            yield {"a": "part"}
        finally:
            closed.append(True)

    inner = open_()  # held here, so that it is not the garbage collector that closes it
    wrapped = adapt(inner, DEEPSEEK, "deepseek", lambda *_, **__: None)
    next(wrapped)
    wrapped.close()
    assert closed == [True]


def test_a_notice_has_a_subject_of_its_own_for_each_thing_and_provider() -> None:
    subjects: list[str] = []

    def notice(event: str, subject: str, text: str, **facts: object) -> None:
        subjects.append(f"{event}: {subject}")

    exchange = ask_one(CHAT, {"model": "m", "messages": [], "top_k": 40, "seed": 1})
    play(adapt(exchange, DEEPSEEK, "deepseek", notice), reply({}))
    assert subjects == ["provider takes less: deepseek top_k", "provider takes less: deepseek seed"]


@pytest.mark.parametrize(
    "strange", [malformed_reply("https://x", "it is empty"), redirected("https://x/v1", "http://y/")]
)
def test_what_is_no_answer_of_a_provider_says_where_its_url_stands(strange: MalformedReply) -> None:
    exchange = ask_one(CHAT, {"model": "m", "messages": []})
    with pytest.raises(MalformedReply) as caught:
        through(exchange, strange, name="cloud")
    said = str(caught.value)
    assert "Please check base_url in [providers.cloud]: https://api.deepseek.com" in said
    assert "https://x" in said
    assert "vLLM" not in said
    assert "VLLM_URLS" not in said
    assert caught.value.status_code == strange.status_code


def test_so_does_an_answer_that_can_not_be_read() -> None:
    with pytest.raises(MalformedReply, match=r"sent a malformed reply.*Please check base_url in \[providers.cloud\]"):
        through(chat(call("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]})), [b"{"], name="cloud")
