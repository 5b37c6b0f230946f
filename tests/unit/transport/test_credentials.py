"""The headers of each destination, and the redaction of keys."""

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
"""The `authorization` header that the official client creates from OLLAMA_API_KEY."""
ENVIRON = {"OLLAMA_API_KEY": OLLAMA_KEY, "DEEPSEEK_API_KEY": DEEPSEEK_KEY}
GROQ = {"groq": {"base_url": "https://api.groq.com/openai/v1", "api_key_env": "GROQ_KEY", "headers": {"x-team": "nlp"}}}


def credentials(
    headers: Mapping[str, str | None] | None = None,
    ollama: str | None = FROM_OLLAMA,
    environ: Mapping[str, str] = ENVIRON,
    **settings: Any,
) -> Credentials:
    return read_credentials(Settings(**settings), headers or {}, ollama, environ)


# vLLM


def test_vllm_does_not_receive_ollama_key() -> None:
    assert credentials().headers("vllm") == {}


def test_vllm_receives_vllm_key() -> None:
    assert credentials(vllm_api_key=VLLM_KEY).headers("vllm") == {"authorization": f"Bearer {VLLM_KEY}"}


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_vllm_receives_authorization_of_client_headers(name: str) -> None:
    assert credentials({name: "Basic abc"}).headers("vllm") == {"authorization": "Basic abc"}


def test_vllm_key_overrides_client_headers() -> None:
    found = credentials({"authorization": "Bearer other"}, vllm_api_key=VLLM_KEY)
    assert found.headers("vllm") == {"authorization": f"Bearer {VLLM_KEY}"}


def test_vllm_receives_no_key_when_header_is_none() -> None:
    assert credentials({"authorization": None}).headers("vllm") == {}


# Ollama and the providers


def test_ollama_receives_ollama_key() -> None:
    assert credentials(vllm_api_key=VLLM_KEY).headers("ollama") == {"authorization": FROM_OLLAMA}
    assert credentials(ollama=None, vllm_api_key=VLLM_KEY).headers("ollama") == {}


def test_provider_receives_key_of_its_variable() -> None:
    assert credentials().headers("deepseek") == {"authorization": f"Bearer {DEEPSEEK_KEY}"}


@pytest.mark.parametrize("value", [None, "", "   "])
def test_provider_receives_no_key_when_its_variable_is_blank(value: str | None) -> None:
    environ = {"OLLAMA_API_KEY": OLLAMA_KEY} | ({} if value is None else {"DEEPSEEK_API_KEY": value})
    found = credentials({"authorization": "Bearer mine"}, environ=environ, vllm_api_key=VLLM_KEY)
    assert found.headers("deepseek") == {}


def test_provider_receives_no_key_when_it_has_no_variable() -> None:
    local = {"local": {"base_url": "http://box:8000", "api_key_env": None}}
    assert credentials(environ={"": "unexpected"}, vllm_api_key=VLLM_KEY, providers=local).headers("local") == {}


def test_provider_key_is_stripped() -> None:
    assert credentials(environ={"DEEPSEEK_API_KEY": f" {DEEPSEEK_KEY}\n"}).headers("deepseek") == {
        "authorization": f"Bearer {DEEPSEEK_KEY}"
    }


def test_provider_headers_are_sent_to_no_other_destination() -> None:
    found = credentials(environ={"GROQ_KEY": "groq-secret"}, providers=GROQ)
    assert found.headers("groq") == {"x-team": "nlp", "authorization": "Bearer groq-secret"}
    assert all("x-team" not in found.headers(other) for other in ("vllm", "ollama", "deepseek"))


def test_unknown_destination_receives_no_key() -> None:
    assert credentials(vllm_api_key=VLLM_KEY).headers("unknown") == {}


@given(st.sampled_from(["vllm", "ollama", "deepseek", "groq"]))
def test_each_key_is_sent_to_one_destination(credential: str) -> None:
    environ = {**ENVIRON, "GROQ_KEY": "groq-secret"}
    sent = str(credentials(environ=environ, vllm_api_key=VLLM_KEY, providers=GROQ).headers(credential))
    assert [name for name in ("vllm", "ollama", "deepseek", "groq") if f"{name}-secret" in sent] == [credential]


# Redaction


def test_repr_contains_no_key() -> None:
    found = credentials({"authorization": "Bearer mine-secret"}, vllm_api_key=VLLM_KEY, providers=GROQ)
    assert "secret" not in repr(found)
    assert "secret" not in repr(Settings.model_validate({"vllm_api_key": VLLM_KEY}))


@pytest.mark.parametrize("secret", [OLLAMA_KEY, VLLM_KEY, DEEPSEEK_KEY])
def test_redact_replaces_every_key(secret: str) -> None:
    found = credentials(vllm_api_key=VLLM_KEY)
    assert found.redact(f"wrong key {secret}: {secret}".encode()) == b"wrong key [key]: [key]"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic", ""])
def test_redact_replaces_key_without_scheme(scheme: str) -> None:
    found = credentials({"authorization": f"{scheme} dXNlcjpwYXNz".strip()})
    assert found.redact(b"no such user: dXNlcjpwYXNz") == b"no such user: [key]"


def test_redact_replaces_whole_key_when_another_key_is_its_beginning() -> None:
    found = credentials(environ={"DEEPSEEK_API_KEY": f"{VLLM_KEY}-of-deepseek"}, vllm_api_key=VLLM_KEY)
    assert found.redact(f"wrong key {VLLM_KEY}-of-deepseek".encode()) == b"wrong key [key]"


@pytest.mark.parametrize("body", [b"", b"no key in here", "키가 틀렸다".encode()])
def test_redact_keeps_body_without_key(body: bytes) -> None:
    assert credentials(vllm_api_key=VLLM_KEY).redact(body) == body


@pytest.mark.parametrize(("key", "redacted"), [("error", False), ("errors", True)])
def test_redact_keeps_key_when_it_is_short(key: str, redacted: bool) -> None:
    body = f'{{"error": "many {key}"}}'.encode()
    assert (credentials(vllm_api_key=key).redact(body) != body) is redacted


@pytest.mark.parametrize(
    "quoted",
    ["sk-AB/CD+12==", "sk-AB\\/CD+12==", "sk-AB\\u002fCD\\u002B12==", "\\u0073k-AB/CD+12=\\u003D"],
)
def test_redact_replaces_key_in_every_json_form(quoted: str) -> None:
    assert json.loads(f'"{quoted}"') == "sk-AB/CD+12=="
    found = credentials(vllm_api_key="sk-AB/CD+12==")
    assert found.redact(f'{{"error": "not with {quoted}"}}'.encode()) == b'{"error": "not with [key]"}'


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6), st.booleans())
@example("00000\\", True)
def test_redact_replaces_any_key_in_json_form(key: str, as_numbers: bool) -> None:
    written = "".join(f"\\u{ord(char):04x}" for char in key) if as_numbers else json.dumps(key)[1:-1]
    assert Credentials({"vllm": f"Bearer {key}"}).redact(f"({written})".encode()) == b"([key])"


@pytest.mark.parametrize("text", ["한국어", "half \ud800", ""])
def test_redact_text_replaces_key(text: str) -> None:
    assert credentials(vllm_api_key=VLLM_KEY).redact_text(f"{text} {VLLM_KEY}") == f"{text} [key]"
