"""Settings: keywords of `Client(...)` over environment variables over a TOML file, validated into one frozen object.

A variable, its key in the TOML file and the keyword have one name in two letter cases: `VLLM_URLS`, `vllm_urls`.
`VARIABLES` lists them with what each may hold; errors are made from it, so that a wrong value is answered by the
variable's name, where it stood, what it held and what it may hold. Values are read when a client is made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from ollama import ResponseError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

DEFAULT_URLS = ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
DEFAULT_MODEL_MAP = {
    "exaone3.5:7.8b": "LGAI-EXAONE/EXAONE-4.0-32B-AWQ",
    "daynice/kure-v1": "nlpai-lab/KURE-v1",
}


OLLAMA = "ollama"
"""What stands for the Ollama server that the client was made for where providers are named."""


class SettingsError(ValueError):
    """A setting is wrong: says which one, where it stood, what it held and what it may hold."""


class Frozen(BaseModel):
    """Frozen, and strict about names: an unknown key is a typing error of somebody's."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class Thinking(Frozen):
    """How a model's thinking is switched and marked. What is None is taken from the model family."""

    default: bool | None = None
    """What an unset `think` means; Ollama's own rule is that a model that can think does."""
    switch: str | None = None
    """The key in `chat_template_kwargs` that turns thinking on and off."""
    tags: tuple[str, str] | None = None
    """What opens and closes the thoughts in the text, where the server has no reasoning parser."""


Capability: TypeAlias = Literal["completion", "tools", "thinking", "vision", "insert", "embedding"]


class Profile(Frozen):
    """What a Modelfile is to Ollama: a served model under another name, with defaults of its own."""

    from_: str | None = Field(None, alias="from")
    """The served model; the profile's own name when it is None."""
    system: str | None = None
    """The system prompt of requests that bring none."""
    parameters: Mapping[str, Any] = {}
    """Default options."""
    template: str | None = None
    """A Go template, as in a Modelfile, by which prompts are made here; None: the server's chat template is used."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """What every conversation begins with, after the system prompt."""
    fim: str | None = None
    """A fill-in-the-middle prompt with `{prefix}` and `{suffix}`; None: the model family's, if it has one."""
    license: str | None = None
    chat_template_kwargs: Mapping[str, Any] = {}
    """What the server's chat template is told beside the messages, with every request."""
    thinking: Thinking = Thinking()
    capabilities: tuple[Capability, ...] | None = None
    """What the model can do, in Ollama's words. None: not known, so nothing is refused for it; otherwise what is not
    named here is refused as Ollama refuses it."""

    @field_validator("parameters")
    @classmethod
    def _checked(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """A wrong type is found when the profile is read, not when it is used."""
        from .mapping.options import resolve  # only where there is a profile

        try:
            return resolve(parameters, {})
        except ResponseError as problem:
            raise ValueError(problem.error) from None

    @field_validator("template")
    @classmethod
    def _can_be_read(cls, template: str | None) -> str | None:
        """A template that is not understood is found when the profile is read, too."""
        if template:
            from .go_template.prompt import read  # only where there is one

            read(template)
        return template or None

    def lacks(self, capability: Capability) -> bool:
        """Whether the profile says that the model does not have the capability."""
        return self.capabilities is not None and capability not in self.capabilities


NO_PROFILE = Profile.model_validate({})


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Provider(Frozen):
    """An OpenAI-compatible service that may stand in for a model."""

    base_url: str
    """With the path in front of `/chat/completions`, where that is not `/v1`."""
    api_key_env: str | None = None
    """The NAME of the variable that holds the key: no key stands in a file."""
    models: Mapping[str, str] = {}
    """Names for the provider's own model names."""
    dialect: str | None = None
    """What it takes, by a row of `DIALECTS`; None: told by the host of `base_url`."""
    headers: Mapping[str, str] = {}
    """Further headers, which are no secrets."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        url = url.strip()
        url = url if "://" in url else f"https://{url}"
        if urlsplit(url).username is not None:
            raise ValueError("a URL with a user or a password in it: name the key's variable in api_key_env")
        _url(url)
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not sendable(value):
                raise ValueError(f"{name!r} has characters that no HTTP header can carry (a line end?)")
        return headers

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        from .providers.dialects import DIALECTS  # only where there is a provider

        known = [row.name for row in DIALECTS]
        if name is not None and name not in known:
            raise ValueError(f"there is no dialect {name!r}: it may be {', '.join(known)}")
        return name

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("it must be the NAME of a variable, not the key itself")
        return name


_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+(?:%[\w.-]+)?", re.IGNORECASE)
_PATH = re.compile(r"[^\s\\;]*")


def _url(text: str) -> str:
    url = text.strip()
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or a password in it: give the key in VLLM_API_KEY, or auth= to the client")
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError(f"{text.strip()!r} is no http or https URL")
    if not _HOST.fullmatch(parts.hostname or "") or not _PATH.fullmatch(parts.path):
        raise ValueError(f"{text.strip()!r} is no http or https URL")
    _ = parts.port  # raises ValueError for a port that is no number
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


PROVIDERS: Mapping[str, Provider] = {
    "deepseek": Provider(base_url="https://api.deepseek.com", api_key_env="DEEPSEEK_API_KEY"),
}
"""The providers that need no configuration."""


def _urls(value: object) -> object:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        return value
    return tuple(dict.fromkeys(_url(part) for part in value))


def _json_object(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def sendable(value: str) -> bool:
    """Whether an HTTP header can carry it as it is."""
    return value.isascii() and value.replace("\t", " ").isprintable()


def _header_value(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, str) and not sendable(value):
        raise ValueError("it has characters that no HTTP header can carry (a line end?)")
    return value


def _chains(value: object) -> object:
    """One stand-in may be written without a list."""
    value = _json_object(value)
    if not isinstance(value, Mapping):
        return value
    return {name: (chain,) if isinstance(chain, str) else chain for name, chain in value.items()}


def _with_built_in(providers: Mapping[str, Provider]) -> Mapping[str, Provider]:
    if OLLAMA in providers:
        raise ValueError(f"{OLLAMA!r} is the Ollama server itself: give the provider another name")
    return {**PROVIDERS, **providers}


RATES: Mapping[str, str] = {
    "generate": "VLLM_GENERATE_RATE",
    "chat": "VLLM_CHAT_RATE",
    "embed": "VLLM_EMBED_RATE",
}
"""The operations that limits hold for, and the variable of each one's rate."""

DEFAULT_PLACES = 10
"""Calls in flight at once, where limits are on."""


class Settings(Frozen):
    """Everything a client needs to know, validated."""

    backend_mode: Literal["ollama", "vllm"] = "ollama"
    vllm_urls: Annotated[tuple[str, ...], BeforeValidator(_urls), Field(min_length=1)] = DEFAULT_URLS
    vllm_api_key: Annotated[SecretStr | None, BeforeValidator(_header_value)] = None
    vllm_model_map: Annotated[Mapping[str, str], BeforeValidator(_json_object)] = DEFAULT_MODEL_MAP
    vllm_failover: Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_chains)] = {}
    vllm_limits: Annotated[str | None, Field(repr=False)] = None
    """Not shown: a password may stand in it."""
    vllm_generate_rate: str = "300/minute"
    vllm_chat_rate: str = "600/minute"
    vllm_embed_rate: str = "6000/minute"
    vllm_max_concurrent: Annotated[int | None, Field(ge=1)] = None
    models: Mapping[str, Profile] = {}
    providers: Annotated[Mapping[str, Provider], AfterValidator(_with_built_in)] = PROVIDERS

    @field_validator("vllm_limits")
    @classmethod
    def _counts(cls, url: str | None) -> str | None:
        if url is not None:
            from .limits.rates import check  # only where limits are on

            check(url, {})
        return url

    @field_validator("vllm_generate_rate", "vllm_chat_rate", "vllm_embed_rate")
    @classmethod
    def _is_rate(cls, rate: str) -> str:
        from .limits.rates import check

        check("memory://", {"": rate})
        return rate

    @property
    def rates(self) -> dict[str, str]:
        """The rate of each operation, as the `limits` package writes rates."""
        return {operation: str(getattr(self, variable.lower())) for operation, variable in RATES.items()}

    @property
    def max_concurrent(self) -> int | None:
        """The number of calls that may be in flight at once; None: no limit."""
        if self.vllm_max_concurrent is not None:
            return self.vllm_max_concurrent
        return None if self.vllm_limits is None else DEFAULT_PLACES


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: its environment variable, what it may hold, and what it is."""

    name: str
    may_hold: str
    meaning: str
    default: str
    secret: bool = False

    @property
    def key(self) -> str:
        """The keyword of `Client(...)` and the key in the TOML file."""
        return self.name.lower()


VARIABLES = (
    Variable("BACKEND_MODE", "'ollama' or 'vllm'", "who answers", "`ollama`"),
    Variable(
        "VLLM_URLS",
        "http or https URLs, separated by commas, with or without /v1",
        "base URLs of the vLLM servers",
        "`http://127.0.0.1:8001,http://127.0.0.1:8002`",
    ),
    Variable("VLLM_API_KEY", "a key of printable ASCII", "bearer key sent to vLLM", "none", secret=True),
    Variable(
        "VLLM_MODEL_MAP",
        'a JSON object of strings: {"ollama name": "served name"}',
        "Ollama name -> served name",
        "`exaone3.5:7.8b` -> `LGAI-EXAONE/EXAONE-4.0-32B-AWQ`, `daynice/kure-v1` -> `nlpai-lab/KURE-v1`",
    ),
    Variable(
        "VLLM_FAILOVER",
        'a JSON object of names or lists of names: {"model": ["another", "ollama:model", "deepseek:deepseek-chat"]}',
        "what is asked when a model can't answer",
        "none",
    ),
    Variable("VLLM_LIMITS", "`memory://` or `redis://host:port`", "turns limits on, and where they are counted", "off"),
    Variable("VLLM_GENERATE_RATE", "a rate, as `300/minute`", "generate calls, where limits are on", "`300/minute`"),
    Variable("VLLM_CHAT_RATE", "a rate, as `600/minute`", "chat calls, where limits are on", "`600/minute`"),
    Variable("VLLM_EMBED_RATE", "a rate, as `6000/minute`", "embed calls, where limits are on", "`6000/minute`"),
    Variable(
        "VLLM_MAX_CONCURRENT",
        "a number from 1",
        "calls in flight at once, per client",
        "10 where limits are on, else as many as there are",
    ),
)
CONFIG = Variable(
    "OLLAMA_COMPAT_CONFIG", "the path of a TOML file", "file with all of the above and the model profiles", "none"
)


def load(keywords: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: `keywords` over `environ` (default: `os.environ`) over the TOML file.

    A variable that is empty or blank counts as unset, as Compose files write it. Raises `SettingsError`.
    """
    environ = os.environ if environ is None else environ
    given = {key: value for key, value in (keywords or {}).items() if value is not None}
    values: dict[str, object] = {}
    places: dict[str, str] = {}
    path = given.pop(CONFIG.key, None) or environ.get(CONFIG.name, "").strip()
    if path:
        values = _read_toml(Path(str(path)))
        places = dict.fromkeys(values, f"in {path}")
    for variable in VARIABLES:
        if environ.get(variable.name, "").strip():
            values[variable.key] = environ[variable.name].strip()
            places[variable.key] = "in the environment"
    values.update(given)
    places.update(dict.fromkeys(given, "given to the client"))
    try:
        return Settings.model_validate(values)
    except ValidationError as problem:
        raise SettingsError(_explain(problem, places)) from None


def named(settings: Settings) -> Iterator[str]:
    """Every name in the settings that is a model's for sure."""
    yield from settings.models
    yield from settings.vllm_model_map
    yield from settings.vllm_model_map.values()
    yield from settings.vllm_failover


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib  # only where a file is named

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, and there is no such file") from None
    except OSError as problem:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, which can't be read: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{CONFIG.name} names {str(path)!r}, which is no valid TOML: {problem}") from None


def _held(variable: Variable, value: object) -> str:
    """What a variable held, without the passwords that may stand in it."""
    if variable.name == "VLLM_LIMITS" and isinstance(value, str):
        from .limits.rates import shown

        return repr(shown(value))
    with_password = variable.name == "VLLM_URLS" and "@" in str(value)
    return "a value that is not shown" if variable.secret or with_password else repr(value)


def _explain(problem: ValidationError, places: Mapping[str, str]) -> str:
    variables = {variable.key: variable for variable in VARIABLES}
    lines = []
    for error in problem.errors(include_url=False):
        key = str(error["loc"][0])
        where = places.get(key, "")
        reason = error["msg"].removeprefix("Value error, ")
        variable = variables.get(key)
        if variable is None:
            spot = ".".join(str(part) for part in error["loc"])
            known = ", ".join(("models", "providers", *variables))
            hint = f"; the keys are {known}" if error["type"] == "extra_forbidden" and len(error["loc"]) == 1 else ""
            lines.append(f"{spot} ({where}): {reason}{hint}")
            continue
        held = _held(variable, error["input"])
        why = "" if error["type"] == "literal_error" else f" ({reason})"
        lines.append(f"{variable.name} ({where}) holds {held}; it may hold {variable.may_hold}{why}")
    return "\n".join(lines)
