"""Keyword over environment over TOML over default; a wrong value is an error that says which, where, what and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ollama_compat import Client, Settings, SettingsError
from ollama_compat.settings import DEFAULT_MODEL_MAP, DEFAULT_URLS, load

KEY = "key-that-nobody-may-see"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "compat.toml"
    path.write_text('backend_mode = "vllm"\nvllm_urls = ["http://toml"]\nvllm_api_key = "toml"\n', "utf-8")
    return path


def message(keywords: dict[str, object] | None = None, **environ: str) -> str:
    """What the error says."""
    with pytest.raises(SettingsError) as caught:
        load(keywords, environ)
    return str(caught.value)


# Precedence


def test_nothing_set_is_the_default() -> None:
    settings = load(environ={})
    assert settings.backend_mode == "ollama"
    assert settings.vllm_urls == DEFAULT_URLS == ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
    assert settings.vllm_api_key is None
    assert settings.vllm_model_map == DEFAULT_MODEL_MAP
    assert settings.models == {}


def test_the_file_goes_over_the_default(toml: Path) -> None:
    assert load(environ={"OLLAMA_COMPAT_CONFIG": str(toml)}).vllm_urls == ("http://toml",)


def test_the_environment_goes_over_the_file(toml: Path) -> None:
    environ = {"OLLAMA_COMPAT_CONFIG": str(toml), "VLLM_URLS": "http://env"}
    settings = load(environ=environ)
    assert (settings.vllm_urls, settings.backend_mode) == (("http://env",), "vllm")


def test_a_keyword_goes_over_the_environment(toml: Path) -> None:
    environ = {"OLLAMA_COMPAT_CONFIG": str(toml), "VLLM_URLS": "http://env"}
    assert load({"vllm_urls": "http://keyword"}, environ).vllm_urls == ("http://keyword",)


def test_the_keyword_for_the_file_goes_over_its_variable(toml: Path) -> None:
    settings = load({"ollama_compat_config": toml}, {"OLLAMA_COMPAT_CONFIG": "/nowhere"})
    assert settings.vllm_urls == ("http://toml",)


def test_a_keyword_of_none_is_not_given() -> None:
    assert load({"backend_mode": None}, {"BACKEND_MODE": "vllm"}).backend_mode == "vllm"


def test_the_environment_is_read_when_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_MODE", "vllm")
    with Client() as client:
        assert client.settings.backend_mode == "vllm"


def test_ready_made_settings_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_MODE", "ollama")
    settings = Settings(backend_mode="vllm")
    with Client(settings=settings) as client:
        assert client.settings is settings


@pytest.mark.parametrize("wrong", [{"backend_mode": "vllm"}, "vllm"])
def test_settings_of_another_type_are_refused(wrong: object) -> None:
    with pytest.raises((SettingsError, TypeError)):
        Client(settings=wrong)


def test_settings_and_a_keyword_beside_them_are_refused() -> None:
    with pytest.raises((SettingsError, TypeError)):
        Client(settings=Settings(), backend_mode="vllm")


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
@pytest.mark.parametrize(
    "name", ["BACKEND_MODE", "VLLM_URLS", "VLLM_API_KEY", "VLLM_MODEL_MAP", "OLLAMA_COMPAT_CONFIG"]
)
def test_a_blank_variable_counts_as_unset(name: str, blank: str) -> None:
    assert load(environ={name: blank}) == load(environ={})


def test_a_blank_key_by_keyword_is_no_key() -> None:
    assert load({"vllm_api_key": " "}, {}).vllm_api_key is None


def test_spaces_around_a_value_mean_nothing() -> None:
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
def test_urls_in_any_form(given: object, read: tuple[str, ...]) -> None:
    assert load({"vllm_urls": given}, {}).vllm_urls == read


@pytest.mark.parametrize(
    "wrong",
    [
        *("ftp://a", "http://", "http://:8001", "http://a:port", "http://a:99999", "http://a?x=1", "http://a#x", ","),
        *("http://a http://b", "http://a/ http://b", "http://a;http://b", "/v1", "http://a\\b"),
    ],
)
def test_what_is_no_url_is_refused(wrong: str) -> None:
    assert "VLLM_URLS (in the environment) holds" in message(VLLM_URLS=wrong)


def test_an_empty_list_of_urls_is_refused() -> None:
    assert "VLLM_URLS (given to the client) holds []" in message({"vllm_urls": []})


@pytest.mark.parametrize("url", [f"http://{KEY}@a", f"http://user:{KEY}@a", f"http://a,https://user:{KEY}@b"])
def test_a_url_with_a_password_is_refused_and_not_shown(url: str) -> None:
    said = message(VLLM_URLS=url)
    assert "VLLM_API_KEY" in said
    assert KEY not in said


# Wrong values


def test_a_wrong_mode_names_both() -> None:
    assert (
        message(BACKEND_MODE="VLLM") == "BACKEND_MODE (in the environment) holds 'VLLM'; it may hold 'ollama' or 'vllm'"
    )


@pytest.mark.parametrize(
    ("name", "wrong", "may_hold"),
    [
        ("VLLM_URLS", "ftp://a", "http or https URLs, separated by commas, with or without /v1"),
        ("VLLM_MODEL_MAP", "{'a': 'b'}", 'a JSON object of strings: {"ollama name": "served name"}'),
        ("VLLM_MODEL_MAP", '["a"]', "a JSON object of strings"),
        ("VLLM_MODEL_MAP", '{"a": 1}', "a JSON object of strings"),
        ("VLLM_MODEL_MAP", "a=b", "a JSON object of strings"),
    ],
)
def test_a_wrong_value_says_which_what_and_what_it_may_hold(name: str, wrong: str, may_hold: str) -> None:
    said = message(**{name: wrong})
    assert said.startswith(f"{name} (in the environment) holds ")
    assert f"it may hold {may_hold}" in said


def test_a_wrong_keyword_says_that_it_was_given_to_the_client() -> None:
    assert message({"backend_mode": "gpu"}).startswith("BACKEND_MODE (given to the client) holds 'gpu'")


def test_a_wrong_value_of_the_file_says_which_file(toml: Path) -> None:
    toml.write_text('backend_mode = "gpu"')
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(f"BACKEND_MODE (in {toml}) holds 'gpu'")


def test_all_wrong_values_are_told_at_once() -> None:
    said = message(BACKEND_MODE="gpu", VLLM_URLS="ftp://a").splitlines()
    assert [line.split()[0] for line in said] == ["BACKEND_MODE", "VLLM_URLS"]


# The file


def test_a_missing_file_is_named() -> None:
    assert message(OLLAMA_COMPAT_CONFIG="/no/such.toml") == (
        "OLLAMA_COMPAT_CONFIG names '/no/such.toml', and there is no such file"
    )


def test_a_folder_for_a_file_is_named(tmp_path: Path) -> None:
    assert "which can't be read: Is a directory" in message(OLLAMA_COMPAT_CONFIG=str(tmp_path))


@pytest.mark.parametrize("malformed", [b"backend_mode = ", b"\xff\xfe", b"[models", b"a = 1\na = 2"])
def test_a_malformed_file_is_named(toml: Path, malformed: bytes) -> None:
    toml.write_bytes(malformed)
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(
        f"OLLAMA_COMPAT_CONFIG names {str(toml)!r}, which is no valid TOML"
    )


def test_an_unknown_key_is_told_with_the_known_ones(toml: Path) -> None:
    toml.write_text('vllm_url = "http://a"')
    said = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert said.startswith(f"vllm_url (in {toml}): ")
    assert "the keys are models, providers, backend_mode, vllm_urls, vllm_api_key, vllm_model_map" in said


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ('[models.smol]\nsistem = "x"', "models.smol.sistem"),
        ('[models.smol]\nthinking = {switches = "x"}', "models.smol.thinking.switches"),
        ('[models.smol]\ncapabilities = ["sight"]', "models.smol.capabilities.0"),
        ("[models.smol]\nfrom = 1", "models.smol.from"),
    ],
)
def test_a_wrong_profile_says_where(toml: Path, text: str, spot: str) -> None:
    toml.write_text(text)
    assert message(OLLAMA_COMPAT_CONFIG=str(toml)).startswith(f"{spot} (in {toml}): ")


# The key


@pytest.mark.parametrize("wrong", [f"{KEY}\n", f"{KEY}é", f"{KEY}\x00"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(wrong: str) -> None:
    said = message({"vllm_api_key": wrong})
    assert said.startswith("VLLM_API_KEY (given to the client) holds a value that is not shown; it may hold")
    assert KEY not in said


def test_a_key_of_another_type_is_not_shown() -> None:
    assert KEY not in message({"vllm_api_key": [KEY]})


def test_settings_made_by_hand_do_not_show_a_wrong_key() -> None:
    with pytest.raises((SettingsError, ValidationError)) as caught:
        Settings(vllm_api_key=f"{KEY}\n")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("show", [repr, str, lambda settings: settings.model_dump_json()])
def test_the_key_is_in_no_text_of_the_settings(show: Any) -> None:
    assert KEY not in show(load({"vllm_api_key": KEY}, {}))


# Profiles


def test_a_profile_lacks_what_it_does_not_name_once_it_names_anything() -> None:
    told, untold = (Settings.model_validate({"models": {"a": {"capabilities": c}}}) for c in (["completion"], None))
    assert told.models["a"].lacks("tools")
    assert not told.models["a"].lacks("completion")
    assert not untold.models["a"].lacks("tools")


def test_wrong_parameters_of_a_profile_are_found_when_the_settings_are_read() -> None:
    assert "models.smol.parameters" in message({"models": {"smol": {"parameters": {"temperature": "hot"}}}})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load(environ={}).backend_mode = "vllm"  # type: ignore[misc]


# What stands in


def test_one_stand_in_is_written_without_a_list() -> None:
    read = load(environ={"VLLM_FAILOVER": '{"smol": "other", "big": ["a", "deepseek:b"]}'})
    assert read.vllm_failover == {"smol": ("other",), "big": ("a", "deepseek:b")}


def test_a_header_of_a_provider_that_can_not_be_sent_is_told_and_not_shown(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "https://x.example"\nheaders = {x-team = "sk-se\\ncret"}')
    said = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert "providers.x.headers" in said
    assert "'x-team' has characters that no HTTP header can carry" in said
    assert "cret" not in said


def test_the_key_itself_is_refused_where_its_variables_name_belongs(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "https://x.example"\napi_key_env = "sk-secret"')
    said = message(OLLAMA_COMPAT_CONFIG=str(toml))
    assert "it must be the NAME of a variable, not the key itself" in said
    assert "sk-secret" not in said


def test_a_provider_of_ones_own_stands_beside_the_built_in_one(toml: Path) -> None:
    toml.write_text('[providers.x]\nbase_url = "x.example/api"\napi_key_env = "X_KEY"')
    providers = load(environ={"OLLAMA_COMPAT_CONFIG": str(toml)}).providers
    assert set(providers) == {"deepseek", "x"}
    assert providers["x"].base_url == "https://x.example/api"


def test_no_provider_takes_the_name_of_ollama(toml: Path) -> None:
    toml.write_text('[providers.ollama]\nbase_url = "https://x.example"')
    assert "give the provider another name" in message(OLLAMA_COMPAT_CONFIG=str(toml))


# Limits


def test_without_limits_there_are_no_places() -> None:
    assert load(environ={}).places is None


def test_the_gateways_figures_are_the_defaults() -> None:
    read = load(environ={"VLLM_LIMITS": "memory://"})
    assert read.rates == {"generate": "300/minute", "chat": "600/minute", "embed": "6000/minute"}
    assert read.places == 10


def test_places_can_be_had_without_rates() -> None:
    read = load(environ={"VLLM_MAX_CONCURRENT": "3"})
    assert (read.places, read.vllm_limits) == (3, None)


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
def test_a_wrong_limit_or_chain_is_told(variable: str, value: str, hint: str) -> None:
    said = message(**{"VLLM_LIMITS": "memory://", variable: value})
    assert said.startswith(f"{variable} (in the environment) holds ")
    assert hint in said
