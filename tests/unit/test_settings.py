"""Precedence of the sources of settings, validation of each setting, and error messages for invalid values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ollama_compat import Client, Settings, SettingsError
from ollama_compat.settings import DEFAULT_MODEL_MAP, DEFAULT_URLS, load

KEY = "key-that-must-not-be-shown"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "compat.toml"
    path.write_text('backend_mode = "vllm"\nvllm_urls = ["http://toml"]\nvllm_api_key = "toml"\n', "utf-8")
    return path


def message(keywords: dict[str, object] | None = None, **environ: str) -> str:
    """Return the message of the `SettingsError` that `load` raises."""
    with pytest.raises(SettingsError) as caught:
        load(keywords, environ)
    return str(caught.value)


# Precedence


def test_load_uses_defaults_when_nothing_is_set() -> None:
    settings = load(environ={})
    assert settings.backend_mode == "ollama"
    assert settings.vllm_urls == DEFAULT_URLS == ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
    assert settings.vllm_api_key is None
    assert settings.vllm_model_map == DEFAULT_MODEL_MAP
    assert settings.models == {}


def test_file_overrides_defaults(toml: Path) -> None:
    assert load(environ={"OLLAMA_COMPAT_CONFIG": str(toml)}).vllm_urls == ("http://toml",)


def test_environment_overrides_file(toml: Path) -> None:
    environ = {"OLLAMA_COMPAT_CONFIG": str(toml), "VLLM_URLS": "http://env"}
    settings = load(environ=environ)
    assert (settings.vllm_urls, settings.backend_mode) == (("http://env",), "vllm")


def test_keyword_overrides_environment(toml: Path) -> None:
    environ = {"OLLAMA_COMPAT_CONFIG": str(toml), "VLLM_URLS": "http://env"}
    assert load({"vllm_urls": "http://keyword"}, environ).vllm_urls == ("http://keyword",)


def test_config_keyword_overrides_config_variable(toml: Path) -> None:
    settings = load({"ollama_compat_config": toml}, {"OLLAMA_COMPAT_CONFIG": "/nowhere"})
    assert settings.vllm_urls == ("http://toml",)


def test_load_ignores_keyword_when_it_is_none() -> None:
    assert load({"backend_mode": None}, {"BACKEND_MODE": "vllm"}).backend_mode == "vllm"


def test_client_reads_environment_when_it_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_MODE", "vllm")
    with Client() as client:
        assert client.settings.backend_mode == "vllm"


def test_client_uses_settings_object_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_MODE", "ollama")
    settings = Settings(backend_mode="vllm")
    with Client(settings=settings) as client:
        assert client.settings is settings


@pytest.mark.parametrize("wrong", [{"backend_mode": "vllm"}, "vllm"])
def test_client_rejects_settings_of_another_type(wrong: object) -> None:
    with pytest.raises((SettingsError, TypeError)):
        Client(settings=wrong)


def test_client_rejects_settings_combined_with_a_keyword() -> None:
    with pytest.raises((SettingsError, TypeError)):
        Client(settings=Settings(), backend_mode="vllm")


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
@pytest.mark.parametrize(
    "name", ["BACKEND_MODE", "VLLM_URLS", "VLLM_API_KEY", "VLLM_MODEL_MAP", "OLLAMA_COMPAT_CONFIG"]
)
def test_load_treats_blank_variable_as_unset(name: str, blank: str) -> None:
    assert load(environ={name: blank}) == load(environ={})


def test_load_treats_blank_key_keyword_as_no_key() -> None:
    assert load({"vllm_api_key": " "}, {}).vllm_api_key is None


def test_load_strips_whitespace_around_values() -> None:
    settings = load(environ={"BACKEND_MODE": " vllm\n", "VLLM_API_KEY": f" {KEY}\r\n"})
    assert settings.backend_mode == "vllm"
    assert settings.vllm_api_key is not None
    assert settings.vllm_api_key.get_secret_value() == KEY


# URLs


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://a:8001", ("http://a:8001",)),
        ("http://a:8001/v1", ("http://a:8001",)),
        ("http://a:8001/v1/", ("http://a:8001",)),
        ("http://a:8001/", ("http://a:8001",)),
        ("a:8001", ("http://a:8001",)),
        ("a", ("http://a",)),
        ("https://a/llm/v1", ("https://a/llm",)),
        ("http://[::1]:8001", ("http://[::1]:8001",)),
        (" http://a , http://b ", ("http://a", "http://b")),
        ("http://a,,http://b,", ("http://a", "http://b")),
        ("http://a,http://a/v1,http://b,a", ("http://a", "http://b")),
        (["http://a/v1", "http://b"], ("http://a", "http://b")),
        (("http://a",), ("http://a",)),
    ],
)
def test_load_normalizes_urls(given: object, read: tuple[str, ...]) -> None:
    assert load({"vllm_urls": given}, {}).vllm_urls == read


@pytest.mark.parametrize(
    "wrong",
    [
        *("ftp://a", "http://", "http://:8001", "http://a:port", "http://a:99999", "http://a?x=1", "http://a#x", ","),
        *("http://a http://b", "http://a/ http://b", "http://a;http://b", "/v1", "http://a\\b"),
    ],
)
def test_load_rejects_invalid_url(wrong: str) -> None:
    assert "VLLM_URLS (in the environment) has the invalid value" in message(VLLM_URLS=wrong)


def test_load_rejects_empty_list_of_urls() -> None:
    assert "VLLM_URLS (given to the client) has the invalid value []" in message({"vllm_urls": []})


@pytest.mark.parametrize("url", [f"http://{KEY}@a", f"http://user:{KEY}@a", f"http://a,https://user:{KEY}@b"])
def test_load_rejects_url_with_password_without_showing_it(url: str) -> None:
    text = message(VLLM_URLS=url)
    assert "VLLM_API_KEY" in text
    assert KEY not in text


# Wrong values


def test_error_for_backend_mode_names_both_modes() -> None:
    assert (
        message(BACKEND_MODE="VLLM")
        == "BACKEND_MODE (in the environment) has the invalid value 'VLLM'; allowed: 'ollama' or 'vllm'"
    )


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("VLLM_URLS", "ftp://a", "http or https URLs, separated by commas, with or without /v1"),
        ("VLLM_MODEL_MAP", "{'a': 'b'}", 'a JSON object of strings: {"ollama name": "served name"}'),
        ("VLLM_MODEL_MAP", '["a"]', "a JSON object of strings"),
        ("VLLM_MODEL_MAP", '{"a": 1}', "a JSON object of strings"),
        ("VLLM_MODEL_MAP", "a=b", "a JSON object of strings"),
    ],
)
def test_error_names_variable_value_and_allowed_values(name: str, wrong: str, allowed: str) -> None:
    text = message(**{name: wrong})
    assert text.startswith(f"{name} (in the environment) has the invalid value ")
    assert f"; allowed: {allowed}" in text


def test_error_names_client_as_source_when_keyword_is_invalid() -> None:
    assert message({"backend_mode": "gpu"}).startswith("BACKEND_MODE (given to the client) has the invalid value 'gpu'")


def test_error_names_file_when_its_value_is_invalid(toml: Path) -> None:
    toml.write_text('backend_mode = "gpu"')
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(f"BACKEND_MODE (in {toml}) has the invalid value 'gpu'")


def test_error_lists_all_invalid_values() -> None:
    text = message(BACKEND_MODE="gpu", VLLM_URLS="ftp://a").splitlines()
    assert [line.split()[0] for line in text] == ["BACKEND_MODE", "VLLM_URLS"]


# The file


def test_error_names_config_file_when_it_is_missing() -> None:
    assert message(OLLAMA_COMPAT_CONFIG="/no/such.toml") == (
        "OLLAMA_COMPAT_CONFIG names '/no/such.toml', which does not exist"
    )


def test_error_names_config_file_when_it_is_a_folder(tmp_path: Path) -> None:
    assert "which cannot be read: Is a directory" in message(OLLAMA_COMPAT_CONFIG=str(tmp_path))


@pytest.mark.parametrize("malformed", [b"backend_mode = ", b"\xff\xfe", b"[models", b"a = 1\na = 2"])
def test_error_names_config_file_when_it_is_malformed(toml: Path, malformed: bytes) -> None:
    toml.write_bytes(malformed)
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(
        f"OLLAMA_COMPAT_CONFIG names {str(toml)!r}, which is not valid TOML"
    )


def test_error_lists_known_keys_when_key_is_unknown(toml: Path) -> None:
    toml.write_text('vllm_url = "http://a"')
    text = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert text.startswith(f"vllm_url (in {toml}): ")
    assert "the keys are models, providers, backend_mode, vllm_urls, vllm_api_key, vllm_model_map" in text


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ('[models.smol]\nsistem = "x"', "models.smol.sistem"),
        ('[models.smol]\nthinking = {switches = "x"}', "models.smol.thinking.switches"),
        ('[models.smol]\ncapabilities = ["sight"]', "models.smol.capabilities.0"),
        ("[models.smol]\nfrom = 1", "models.smol.from"),
    ],
)
def test_error_names_location_in_invalid_profile(toml: Path, text: str, spot: str) -> None:
    toml.write_text(text)
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(f"{spot} (in {toml}): ")


# The key


@pytest.mark.parametrize("wrong", [f"{KEY}\n", f"{KEY}é", f"{KEY}\x00"])
def test_load_rejects_unsendable_key_without_showing_it(wrong: str) -> None:
    text = message({"vllm_api_key": wrong})
    assert text.startswith("VLLM_API_KEY (given to the client) has the invalid value (not shown); allowed:")
    assert KEY not in text


def test_error_does_not_show_key_of_another_type() -> None:
    assert KEY not in message({"vllm_api_key": [KEY]})


def test_settings_error_does_not_show_invalid_key() -> None:
    with pytest.raises((SettingsError, ValidationError)) as caught:
        Settings(vllm_api_key=f"{KEY}\n")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("show", [repr, str, lambda settings: settings.model_dump_json()])
def test_settings_text_does_not_contain_key(show: Any) -> None:
    assert KEY not in show(load({"vllm_api_key": KEY}, {}))


# Profiles


def test_profile_lacks_unlisted_capability_when_it_lists_any() -> None:
    listed, unlisted = (Settings.model_validate({"models": {"a": {"capabilities": c}}}) for c in (["completion"], None))
    assert listed.models["a"].lacks("tools")
    assert not listed.models["a"].lacks("completion")
    assert not unlisted.models["a"].lacks("tools")


def test_load_rejects_invalid_profile_parameters() -> None:
    assert "models.smol.parameters" in message({"models": {"smol": {"parameters": {"temperature": "hot"}}}})


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        load(environ={}).backend_mode = "vllm"  # type: ignore[misc]


# Fallbacks and providers


def test_load_accepts_single_fallback_without_list() -> None:
    read = load(environ={"VLLM_FAILOVER": '{"smol": "other", "big": ["a", "deepseek:b"]}'})
    assert read.vllm_failover == {"smol": ("other",), "big": ("a", "deepseek:b")}


def test_load_rejects_unsendable_provider_header_without_showing_it(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "https://x.example"\nheaders = {x-team = "sk-se\\ncret"}')
    text = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert "providers.x.headers" in text
    assert "'x-team' contains characters that an HTTP header cannot carry" in text
    assert "cret" not in text


def test_load_rejects_key_in_place_of_variable_name(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "https://x.example"\napi_key_env = "sk-secret"')
    text = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert "the value must be the NAME of an environment variable, not the key itself" in text
    assert "sk-secret" not in text


def test_load_keeps_built_in_provider_when_provider_is_added(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "x.example/api"\napi_key_env = "X_KEY"')
    providers = load(environ={"OLLAMA_COMPAT_CONFIG": str(toml)}).providers
    assert set(providers) == {"deepseek", "x"}
    assert providers["x"].base_url == "https://x.example/api"


def test_load_rejects_provider_named_ollama(toml: Path) -> None:
    toml.write_text('[providers.ollama]\nbase_url = "https://x.example"')
    assert "give the provider another name" in message(OLLAMA_COMPAT_CONFIG=str(toml))


# Limits


def test_concurrency_is_unlimited_without_limits() -> None:
    assert load(environ={}).max_concurrent is None


def test_limits_have_default_rates_and_concurrency() -> None:
    read = load(environ={"VLLM_LIMITS": "memory://"})
    assert read.rates == {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
    assert read.max_concurrent == 10


def test_max_concurrent_works_without_rates() -> None:
    read = load(environ={"VLLM_MAX_CONCURRENT": "3"})
    assert (read.max_concurrent, read.vllm_limits) == (3, None)


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("VLLM_LIMITS", "memory", "memory://"),
        ("VLLM_LIMITS", "postgres://x", "memory://"),
        ("VLLM_CHAT_RATE", "many", "600/minute"),
        ("VLLM_MAX_CONCURRENT", "0", "a number from 1"),
        ("VLLM_FAILOVER", "[]", "a JSON object"),
        ("VLLM_FAILOVER", '{"a": 1}', "a JSON object"),
    ],
)
def test_error_names_variable_when_limit_or_fallback_is_invalid(variable: str, value: str, hint: str) -> None:
    text = message(**{"VLLM_LIMITS": "memory://", variable: value})
    assert text.startswith(f"{variable} (in the environment) has the invalid value ")
    assert hint in text
