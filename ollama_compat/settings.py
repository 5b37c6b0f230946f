"""Settings of a client: keywords of `Client(...)` over environment variables over a TOML file over defaults.

A variable, its key in the TOML file and its keyword have the same name in two letter cases: `VLLM_URLS`, `vllm_urls`.
`VARIABLES` lists them with their allowed values; the error messages and the table in README.md use this list. `load`
reads and validates all values when a client is created. The types of the tables `[models.NAME]` and
`[providers.NAME]` are in settings_models.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator

from .settings_models import NO_PROFILE as NO_PROFILE
from .settings_models import UNSENDABLE as UNSENDABLE
from .settings_models import Capability as Capability
from .settings_models import Frozen as Frozen
from .settings_models import Profile as Profile
from .settings_models import Provider as Provider
from .settings_models import Thinking as Thinking
from .settings_models import normalized_url
from .settings_models import sendable as sendable

OLLAMA = "ollama"
"""Name of the Ollama server that the client was created for, in places that name providers."""

DEFAULT_URLS = ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
"""Default of VLLM_URLS: the chat server and the embedding server of `vllm-launch`."""
DEFAULT_MODEL_MAP = {
    "exaone3.5:7.8b": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ",
    "daynice/kure-v1": "nlpai-lab/KURE-v1",
}
"""Default of VLLM_MODEL_MAP."""
DEFAULT_MAX_CONCURRENT = 10
"""Default of VLLM_MAX_CONCURRENT (calls) if VLLM_LIMITS is set."""

PROVIDERS: Mapping[str, Provider] = {
    "deepseek": Provider(base_url="https://api.deepseek.com", api_key_env="DEEPSEEK_API_KEY"),
}
"""Providers that need no configuration but their key."""

RATES: Mapping[str, str] = {
    "generate": "VLLM_GENERATE_RATE",
    "chat": "VLLM_CHAT_RATE",
    "embed": "VLLM_EMBED_RATE",
}
"""Operations that limits apply to -> variables of their rates."""


class SettingsError(ValueError):
    """A setting is invalid. The message names the setting, its source, its value and the allowed values."""


def _parse_urls(value: object) -> object:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        return value
    return tuple(dict.fromkeys(normalized_url(part) for part in value))


def _parse_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _parse_fallbacks(value: object) -> object:
    """Parse VLLM_FAILOVER. A single fallback needs no list."""
    value = _parse_json(value)
    if not isinstance(value, Mapping):
        return value
    return {name: (chain,) if isinstance(chain, str) else chain for name, chain in value.items()}


def _check_key(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, str) and not sendable(value):
        raise ValueError(f"the value {UNSENDABLE}")
    return value


def _add_built_in(providers: Mapping[str, Provider]) -> Mapping[str, Provider]:
    if OLLAMA in providers:
        raise ValueError(f"{OLLAMA!r} is reserved for the Ollama server; give the provider another name")
    return {**PROVIDERS, **providers}


class Settings(Frozen):
    """All settings of a client, validated. Each attribute has the name of its variable in lower case."""

    backend_mode: Literal["ollama", "vllm"] = "ollama"
    """Backend that answers calls. Default: `ollama`, which changes nothing."""
    vllm_urls: Annotated[tuple[str, ...], BeforeValidator(_parse_urls), Field(min_length=1)] = DEFAULT_URLS
    """Base URLs of the vLLM servers, without `/v1`; at least one. Default: `DEFAULT_URLS`."""
    vllm_api_key: Annotated[SecretStr | None, BeforeValidator(_check_key)] = None
    """Bearer key that is sent to vLLM. Default: None (the `authorization` header of the client, if it has one)."""
    vllm_model_map: Annotated[Mapping[str, str], BeforeValidator(_parse_json)] = DEFAULT_MODEL_MAP
    """Ollama model names -> names under which vLLM serves the models. Default: `DEFAULT_MODEL_MAP`."""
    vllm_failover: Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_parse_fallbacks)] = {}
    """Model names -> their fallbacks, in the order in which they are tried. Default: empty.

    A fallback is another model name, `ollama:MODEL` or `PROVIDER:MODEL`."""
    vllm_limits: Annotated[str | None, Field(repr=False)] = None
    """URL of the storage that counts calls: `memory://` or a Redis URL. Default: None (no limits).

    The URL may contain a password, so `repr` omits it."""
    vllm_generate_rate: str = "300/minute"
    """Calls of `generate` per time; used if `vllm_limits` is set. Default: `300/minute`."""
    vllm_chat_rate: str = "600/minute"
    """Calls of `chat` per time; used if `vllm_limits` is set. Default: `600/minute`."""
    vllm_embed_rate: str = "6000/minute"
    """Calls of `embed` and `embeddings` per time; used if `vllm_limits` is set. Default: `6000/minute`."""
    vllm_max_concurrent: Annotated[int | None, Field(ge=1)] = None
    """Maximum number of calls that run at the same time in this client, at least 1.

    Default: None (10 if `vllm_limits` is set, otherwise unlimited)."""
    models: Mapping[str, Profile] = {}
    """Profiles by name: the TOML tables `[models.NAME]`. Default: empty."""
    providers: Annotated[Mapping[str, Provider], AfterValidator(_add_built_in)] = PROVIDERS
    """Providers by name: the TOML tables `[providers.NAME]` and the built-in `PROVIDERS`."""

    @field_validator("vllm_limits")
    @classmethod
    def _check_limits(cls, url: str | None) -> str | None:
        if url is not None:
            from .limits.rates import check  # needed only with limits

            check(url, {})
        return url

    @field_validator("vllm_generate_rate", "vllm_chat_rate", "vllm_embed_rate")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        from .limits.rates import check

        check("memory://", {"": rate})
        return rate

    @property
    def rates(self) -> dict[str, str]:
        """Operation -> its rate, in the syntax of the `limits` package."""
        return {operation: str(getattr(self, variable.lower())) for operation, variable in RATES.items()}

    @property
    def max_concurrent(self) -> int | None:
        """Maximum number of calls that run at the same time. None: unlimited."""
        if self.vllm_max_concurrent is not None:
            return self.vllm_max_concurrent
        return None if self.vllm_limits is None else DEFAULT_MAX_CONCURRENT


@dataclass(frozen=True, slots=True)
class Variable:
    """Documentation of one setting, in Markdown."""

    name: str
    """Name of the environment variable."""
    allowed: str
    """Allowed values."""
    meaning: str
    default: str
    secret: bool = False
    """Whether error messages must not show the value."""

    @property
    def key(self) -> str:
        """Keyword of `Client(...)` and key in the TOML file."""
        return self.name.lower()


VARIABLES = (
    Variable("BACKEND_MODE", "'ollama' or 'vllm'", "backend that answers calls", "`ollama`"),
    Variable(
        "VLLM_URLS",
        "http or https URLs, separated by commas, with or without /v1",
        "base URLs of the vLLM servers",
        "`http://127.0.0.1:8001,http://127.0.0.1:8002`",
    ),
    Variable("VLLM_API_KEY", "a key of printable ASCII characters", "bearer key sent to vLLM", "none", secret=True),
    Variable(
        "VLLM_MODEL_MAP",
        'a JSON object of strings: {"ollama name": "served name"}',
        "Ollama name -> served name",
        "`exaone3.5:7.8b` -> `LGAI-EXAONE/EXAONE-4.0-32B-AWQ`, `daynice/kure-v1` -> `nlpai-lab/KURE-v1`",
    ),
    Variable(
        "VLLM_FAILOVER",
        'a JSON object of names or lists of names: {"model": ["another", "ollama:model", "deepseek:deepseek-chat"]}',
        "fallbacks of a model, tried in this order",
        "none",
    ),
    Variable("VLLM_LIMITS", "`memory://` or `redis://host:port`", "enables limits; storage of the counts", "off"),
    Variable("VLLM_GENERATE_RATE", "a rate, such as `300/minute`", "generate calls, if limits are on", "`300/minute`"),
    Variable("VLLM_CHAT_RATE", "a rate, such as `600/minute`", "chat calls, if limits are on", "`600/minute`"),
    Variable("VLLM_EMBED_RATE", "a rate, such as `6000/minute`", "embed calls, if limits are on", "`6000/minute`"),
    Variable(
        "VLLM_MAX_CONCURRENT",
        "a number from 1",
        "calls that run at the same time, per client",
        "10 if limits are on, otherwise unlimited",
    ),
)
CONFIG = Variable(
    "OLLAMA_COMPAT_CONFIG", "the path of a TOML file", "file with all of the above and the model profiles", "none"
)


def load(keywords: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: `keywords` over `environ` (default: `os.environ`) over the TOML file.

    A keyword that is None counts as unset, and so does an empty or blank variable, because Compose files write unset
    variables this way. Raises `SettingsError` that lists all invalid values.
    """
    environ = os.environ if environ is None else environ
    given = {key: value for key, value in (keywords or {}).items() if value is not None}
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    path = given.pop(CONFIG.key, None) or environ.get(CONFIG.name, "").strip()
    if path:
        values = _read_toml(Path(str(path)))
        sources = dict.fromkeys(values, f"in {path}")
    for variable in VARIABLES:
        if environ.get(variable.name, "").strip():
            values[variable.key] = environ[variable.name].strip()
            sources[variable.key] = "in the environment"
    values.update(given)
    sources.update(dict.fromkeys(given, "given to the client"))
    try:
        return Settings.model_validate(values)
    except ValidationError as problem:
        raise SettingsError(_explain(problem, sources)) from None


def model_names(settings: Settings) -> Iterator[str]:
    """Yield every name in the settings that is certainly the name of a model."""
    yield from settings.models
    yield from settings.vllm_model_map
    yield from settings.vllm_model_map.values()
    yield from settings.vllm_failover


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib  # needed only with a file

    start = f"{CONFIG.name} names {str(path)!r}"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{start}, which does not exist") from None
    except OSError as problem:
        raise SettingsError(f"{start}, which cannot be read: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{start}, which is not valid TOML: {problem}") from None


def _explain(problem: ValidationError, sources: Mapping[str, str]) -> str:
    """Return one line per invalid value: the setting, its source, its value, the allowed values and the reason."""
    variables = {variable.key: variable for variable in VARIABLES}
    lines = []
    for error in problem.errors(include_url=False):
        key = str(error["loc"][0])
        source = sources.get(key, "")
        reason = error["msg"].removeprefix("Value error, ")
        variable = variables.get(key)
        if variable is None:
            location = ".".join(str(part) for part in error["loc"])
            is_unknown = error["type"] == "extra_forbidden" and len(error["loc"]) == 1
            hint = f"; the keys are {', '.join(('models', 'providers', *variables))}" if is_unknown else ""
            lines.append(f"{location} ({source}): {reason}{hint}")
            continue
        value = _shown(variable, error["input"])
        why = "" if error["type"] == "literal_error" else f" ({reason})"
        lines.append(f"{variable.name} ({source}) has the invalid value {value}; allowed: {variable.allowed}{why}")
    return "\n".join(lines)


def _shown(variable: Variable, value: object) -> str:
    """Return a value for an error message, without the password that it may contain."""
    if variable.name == "VLLM_LIMITS" and isinstance(value, str):
        from .limits.storage_url import redact_url

        return repr(redact_url(value))
    has_password = variable.name == "VLLM_URLS" and "@" in str(value)
    return "(not shown)" if variable.secret or has_password else repr(value)
