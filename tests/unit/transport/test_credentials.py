"""Whose key goes where, and that none is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_compat import Settings
from ollama_compat.transport.credentials import Credentials, read_credentials

OLLAMA_KEY, VLLM_KEY, DEEPSEEK_KEY = "ollama-secret", "vllm-secret", "deepseek-secret"
FROM_OLLAMA = f"Bearer {OLLAMA_KEY}"
"""What the official client makes of OLLAMA_API_KEY."""
ENVIRON = {"OLLAMA_API_KEY": OLLAMA_KEY, "DEEPSEEK_API_KEY": DEEPSEEK_KEY}
GROQ = {"groq": {"base_url": "https://api.groq.com/openai/v1", "api_key_env": "GROQ_KEY", "headers": {"x-team": "nlp"}}}


def keys(
    headers: Mapping[str, str | None] | None = None,
    ollama: str | None = FROM_OLLAMA,
    environ: Mapping[str, str] = ENVIRON,
    **settings: Any,
) -> Credentials:
    return read_credentials(Settings(**settings), headers or {}, ollama, environ)


# vLLM


def test_ollamas_key_is_never_sent_to_vllm() -> None:
    assert keys().headers("vllm") == {}


def test_vllm_gets_the_key_of_vllm() -> None:
    assert keys(vllm_api_key=VLLM_KEY).headers("vllm") == {"authorization": f"Bearer {VLLM_KEY}"}


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_what_the_caller_wrote_into_the_headers_is_vllms_too(name: str) -> None:
    assert keys({name: "Basic abc"}).headers("vllm") == {"authorization": "Basic abc"}


def test_the_key_of_the_settings_goes_before_the_headers() -> None:
    found = keys({"authorization": "Bearer other"}, vllm_api_key=VLLM_KEY)
    assert found.headers("vllm") == {"authorization": f"Bearer {VLLM_KEY}"}


def test_a_header_that_is_none_is_no_key() -> None:
    assert keys({"authorization": None}).headers("vllm") == {}


# Ollama and the providers


def test_ollama_gets_its_own() -> None:
    assert keys(vllm_api_key=VLLM_KEY).headers("ollama") == {"authorization": FROM_OLLAMA}
    assert keys(ollama=None, vllm_api_key=VLLM_KEY).headers("ollama") == {}


def test_a_provider_gets_the_key_of_its_variable() -> None:
    assert keys().headers("deepseek") == {"authorization": f"Bearer {DEEPSEEK_KEY}"}


@pytest.mark.parametrize("value", [None, "", "   "])
def test_a_provider_without_a_key_gets_nobody_elses(value: str | None) -> None:
    environ = {"OLLAMA_API_KEY": OLLAMA_KEY} | ({} if value is None else {"DEEPSEEK_API_KEY": value})
    found = keys({"authorization": "Bearer mine"}, environ=environ, vllm_api_key=VLLM_KEY)
    assert found.headers("deepseek") == {}


def test_a_provider_that_wants_no_key_gets_none() -> None:
    local = {"local": {"base_url": "http://box:8000", "api_key_env": None}}
    assert keys(environ={"": "odd"}, vllm_api_key=VLLM_KEY, providers=local).headers("local") == {}


def test_blanks_around_a_key_are_not_sent() -> None:
    assert keys(environ={"DEEPSEEK_API_KEY": f" {DEEPSEEK_KEY}\n"}).headers("deepseek") == {
        "authorization": f"Bearer {DEEPSEEK_KEY}"
    }


def test_a_providers_further_headers_go_to_it_alone() -> None:
    found = keys(environ={"GROQ_KEY": "groq-secret"}, providers=GROQ)
    assert found.headers("groq") == {"x-team": "nlp", "authorization": "Bearer groq-secret"}
    assert all("x-team" not in found.headers(other) for other in ("vllm", "ollama", "deepseek"))


def test_whom_nobody_knows_gets_no_key() -> None:
    assert keys(vllm_api_key=VLLM_KEY).headers("elsewhere") == {}


@given(st.sampled_from(["vllm", "ollama", "deepseek", "groq"]))
def test_each_key_goes_to_one_alone(credential: str) -> None:
    environ = {**ENVIRON, "GROQ_KEY": "groq-secret"}
    sent = str(keys(environ=environ, vllm_api_key=VLLM_KEY, providers=GROQ).headers(credential))
    assert [name for name in ("vllm", "ollama", "deepseek", "groq") if f"{name}-secret" in sent] == [credential]


def test_who_is_a_provider() -> None:
    found = keys(providers=GROQ)
    assert [name for name in ("vllm", "ollama", "deepseek", "groq") if found.is_provider(name)] == ["deepseek", "groq"]


# Shown nowhere


def test_no_key_stands_in_a_repr() -> None:
    found = keys({"authorization": "Bearer mine-secret"}, vllm_api_key=VLLM_KEY, providers=GROQ)
    assert "secret" not in repr(found)
    assert "secret" not in repr(Settings.model_validate({"vllm_api_key": VLLM_KEY}))


@pytest.mark.parametrize("secret", [OLLAMA_KEY, VLLM_KEY, DEEPSEEK_KEY])
def test_a_key_that_a_server_says_back_is_hidden(secret: str) -> None:
    found = keys(vllm_api_key=VLLM_KEY)
    assert found.hidden(f"wrong key {secret}: {secret}".encode()) == b"wrong key [key]: [key]"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic", ""])
def test_it_is_hidden_without_its_scheme_too(scheme: str) -> None:
    found = keys({"authorization": f"{scheme} dXNlcjpwYXNz".strip()})
    assert found.hidden(b"no such user: dXNlcjpwYXNz") == b"no such user: [key]"


def test_a_key_that_begins_as_another_does_is_hidden_whole() -> None:
    found = keys(environ={"DEEPSEEK_API_KEY": f"{VLLM_KEY}-of-deepseek"}, vllm_api_key=VLLM_KEY)
    assert found.hidden(f"wrong key {VLLM_KEY}-of-deepseek".encode()) == b"wrong key [key]"


@pytest.mark.parametrize("body", [b"", b"no key in here", "키가 틀렸다".encode()])
def test_all_else_is_left_as_it_is(body: bytes) -> None:
    assert keys(vllm_api_key=VLLM_KEY).hidden(body) == body


@pytest.mark.parametrize(("key", "hidden"), [("error", False), ("errors", True)])
def test_a_key_so_short_that_it_may_be_a_word_is_left(key: str, hidden: bool) -> None:
    body = f'{{"error": "many {key}"}}'.encode()
    assert (keys(vllm_api_key=key).hidden(body) != body) is hidden


@pytest.mark.parametrize(
    "said",
    ["sk-AB/CD+12==", "sk-AB\\/CD+12==", "sk-AB\\u002fCD\\u002B12==", "\\u0073k-AB/CD+12=\\u003D"],
)
def test_a_key_is_hidden_however_json_writes_it(said: str) -> None:
    assert json.loads(f'"{said}"') == "sk-AB/CD+12=="
    found = keys(vllm_api_key="sk-AB/CD+12==")
    assert found.hidden(f'{{"error": "not with {said}"}}'.encode()) == b'{"error": "not with [key]"}'


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6), st.booleans())
@example("00000\\", True)
def test_no_key_is_shown_however_json_writes_it(key: str, as_numbers: bool) -> None:
    written = "".join(f"\\u{ord(char):04x}" for char in key) if as_numbers else json.dumps(key)[1:-1]
    assert Credentials({"vllm": f"Bearer {key}"}).hidden(f"({written})".encode()) == b"([key])"


@pytest.mark.parametrize("text", ["한국어", "half \ud800", ""])
def test_a_text_is_hidden_in_too(text: str) -> None:
    assert keys(vllm_api_key=VLLM_KEY).redact_text(f"{text} {VLLM_KEY}") == f"{text} [key]"
